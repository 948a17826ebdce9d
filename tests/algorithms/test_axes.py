"""An algorithm as a value: what its constructor refuses, what it needs, its axes replaced by name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from toys import unchecked

from sieverl.algorithms import ALGORITHMS, get_algorithm
from sieverl.algorithms import objective as obj
from sieverl.algorithms.algorithm import Algorithm, Critic, DynamicSampling
from sieverl.algorithms.axes import inapplicable, with_axes
from sieverl.algorithms.credit import OverlongShaped, reward
from sieverl.algorithms.needs import needs
from sieverl.algorithms.objective import Clipped, PairLogistic, Penalty
from sieverl.algorithms.token_advantage import Gae, KlInReward
from sieverl.errors import UsageError


def test_k1_in_the_loss_is_refused_with_the_reason() -> None:
    with pytest.raises(ValueError, match="zero expected gradient"):
        Penalty(obj.k1, 0.1)
    wrong: Any = "all"
    with unchecked(), pytest.raises(UsageError, match="kept"):
        Penalty(obj.k2, 0.1, denominator=wrong)


def test_M12_whiten_without_a_spread_is_refused() -> None:
    with pytest.raises(UsageError, match="give a token_advantage"):
        Algorithm(whiten=True)


def test_M12_a_shape_that_a_pair_algorithm_would_ignore_is_refused() -> None:
    with pytest.raises(UsageError, match="would be ignored"):
        replace(get_algorithm("iterative_dpo"), shape=OverlongShaped())
    with pytest.raises(UsageError, match=r"axes\.shape; leave"):
        with_axes(get_algorithm("iterative_dpo"), {"shape": "overlong"})
    assert with_axes(get_algorithm("iterative_dpo"), {"shape": "signed"}) == get_algorithm("iterative_dpo")


def test_M12_what_is_not_known_to_do_without_the_ratio_needs_it() -> None:
    @needs("ref")
    def corrected(t):
        return obj.k3(t) * obj.per_token(t)

    raft = get_algorithm("raft")
    assert "ratio" not in raft.needs
    assert "ratio" in replace(raft, penalties=(Penalty(corrected, 0.1),)).needs
    assert "ratio" in replace(raft, objective=lambda t, ratio_T: -ratio_T * t.advantage_T).needs
    assert "ratio" in replace(raft, token_advantage=lambda t: obj.per_token(t)).needs
    free = {name for name, algorithm in ALGORITHMS.items() if "ratio" not in algorithm.needs}
    assert free == {"raft", "rloo", "remax", "iterative_dpo"}
    for axes in ({"kl": "k2", "kl_coefficient": 1.0}, {"kl": "k3", "kl_coefficient": 1.0}, {"entropy_coefficient": 1}):
        assert "ratio" not in with_axes(raft, axes).needs


@pytest.mark.parametrize("name", ["raft", "rloo", "remax", "cispo"])
def test_M15_clips_of_an_objective_without_any_are_left_out(name: str) -> None:
    axes = {"clip_low": 0.1, "dual_clip": 3.0, "aggregate": "token_mean"}
    algorithm = get_algorithm(name)
    assert inapplicable(algorithm, axes) == ["clip_low", "dual_clip"]
    assert with_axes(algorithm, axes) == replace(algorithm, aggregate=obj.token_mean)


def test_M15_a_pair_algorithm_names_all_axes_it_cannot_take() -> None:
    axes = {"shape": "zero_one", "aggregate": "token_mean", "kl": "k3", "denominator": "kept", "dual_clip": 3.0}
    axes |= {"penalty_denominator": "sampled", "kl_in_reward": 0.1, "entropy_coefficient": 0.1}
    named = "axes.shape, axes.aggregate, axes.denominator, axes.dual_clip, "
    named += "axes.penalty_denominator, axes.kl_in_reward; leave"
    with pytest.raises(UsageError, match=named):
        with_axes(get_algorithm("iterative_dpo"), axes)


def test_compositions_that_cannot_work_are_refused() -> None:
    with pytest.raises(ValueError, match="pair aggregate"):
        Algorithm(objective=PairLogistic())
    with pytest.raises(ValueError, match="critic"):
        Algorithm(token_advantage=Gae())
    with pytest.raises(ValueError, match="sampled"):
        replace(get_algorithm("iterative_dpo"), penalties=(Penalty(obj.k2, 0.1, "sampled"),))
    wrong: Any = "some"
    with unchecked(), pytest.raises(UsageError, match="denominator"):
        Algorithm(denominator=wrong)


def test_axes_by_name() -> None:
    algorithm = with_axes(
        get_algorithm("reinforce_rej"), {"shape": "zero_one", "aggregate": "token_mean", "dual_clip": 3.0}
    )
    assert algorithm.objective == Clipped(0.2, 0.2, 3.0)
    assert algorithm.credit([[1, 0]]).advantage.tolist() == [[1.0, 0.0]], "as released, a wrong answer weighs nothing"
    assert algorithm.aggregate is obj.token_mean
    assert with_axes(get_algorithm("raft"), {"clip_low": 0.1}) == get_algorithm("raft")
    with pytest.raises(ValueError, match="one of"):
        with_axes(get_algorithm("raft"), {"shape": "sign"})
    k3 = with_axes(get_algorithm("grpo"), {"kl": "k3", "kl_coefficient": 0.1, "kl_limit": 10.0}).penalties
    assert k3 == (Penalty(obj.K3(10.0), 0.1),)


def test_S7_a_name_where_a_function_belongs_is_refused_by_the_constructor() -> None:
    wrong: Any = "correct"
    with unchecked(), pytest.raises(UsageError, match="select is 'correct'; pass the function itself"):
        Algorithm(select=wrong)


def test_axes_at_their_defaults_and_at_zero() -> None:
    grpo = get_algorithm("grpo")
    assert with_axes(grpo, {}) == grpo
    assert with_axes(grpo, {"kl_coefficient": 0.1}).penalties == (Penalty(obj.k2, 0.1, "kept"),)
    assert with_axes(grpo, {"kl": "k3", "kl_coefficient": 0.1}).penalties == (Penalty(obj.K3(None), 0.1, "kept"),)
    zero = {"kl_coefficient": 0.0, "entropy_coefficient": 0.0, "kl_in_reward": 0.0}
    assert with_axes(grpo, zero) == grpo
    both = with_axes(grpo, {"kl_coefficient": 0.1, "entropy_coefficient": 0.2, "penalty_denominator": "sampled"})
    assert both.penalties == (Penalty(obj.k2, 0.1, "sampled"), Penalty(obj.negative_entropy, 0.2, "sampled"))
    assert with_axes(both, {"entropy_coefficient": 0.3}).penalties == (
        *both.penalties,
        Penalty(obj.negative_entropy, 0.3),
    )
    assert with_axes(grpo, {"clip_low": 0.1, "clip_high": 0.3}).objective == Clipped(0.1, 0.3)
    assert with_axes(grpo, {"denominator": "kept"}).denominator == "kept"
    dpo = get_algorithm("iterative_dpo")
    assert with_axes(dpo, {"kl_coefficient": 0.1, "penalty_denominator": "kept"}).penalties == (Penalty(obj.k2, 0.1),)


def test_kl_in_the_reward_replaces_only_what_it_must() -> None:
    ppo, plus = get_algorithm("ppo"), get_algorithm("reinforce_pp")
    assert with_axes(ppo, {"kl_in_reward": 0.1}) == replace(ppo, token_advantage=Gae(1.0, 1.0, kl=0.1))
    assert with_axes(plus, {"kl_in_reward": 0.1}) == replace(
        plus, advantage=reward, token_advantage=KlInReward(0.1), whiten=True
    )


def test_more_compositions_that_cannot_work() -> None:
    dpo = get_algorithm("iterative_dpo")
    with pytest.raises(UsageError, match="pair aggregate"):
        Algorithm(aggregate=obj.pair_mean)
    with pytest.raises(UsageError, match="critic needs one"):
        Algorithm(critic=Critic())
    with pytest.raises(UsageError, match="no KL in the reward"):
        replace(dpo, token_advantage=KlInReward(0.1))
    with pytest.raises(UsageError, match="it must be at least 1"):
        DynamicSampling(max_rounds=0)
    assert DynamicSampling(max_rounds=1).max_rounds == 1
