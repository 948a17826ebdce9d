"""What a person passes to `Algorithm.credit`: shapes, defaults, and where rounding decides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from toys import unchecked

from sieverl.algorithms import Algorithm, DynamicSampling, get_algorithm
from sieverl.algorithms.axes import with_axes
from sieverl.algorithms.credit import (
    OverlongShaped,
    correct,
    group_centred,
    groups,
    leave_one_out,
    minus_greedy,
    signed,
    zero_one,
)
from sieverl.errors import UsageError
from sieverl.types import ROUNDING, BoolArray, FloatArray, Responses

REMAX = replace(get_algorithm("remax"), shape=zero_one)
OVERLONG = Algorithm(shape=OverlongShaped())


def test_every_argument_may_have_the_shape_of_the_rewards() -> None:
    rewards = [[1, 0], [0, 1]]
    said = [[False, True], [True, False]]
    assert Algorithm().credit(rewards, correct=said).advantage.tolist() == [[-1, 1], [1, -1]]
    assert get_algorithm("raft").credit([[1, 1]], correct=[[1, 0]]).keep.tolist() == [[True, False]]
    assert Algorithm().credit([1, 0], prompt=[[5], [5]], correct=[[False], [True]]).advantage.tolist() == [-1, 1]
    assert get_algorithm("dr_grpo").credit([1, 0], prompt=[[5], [5]]).advantage.tolist() == [1, -1]
    assert REMAX.credit(rewards, greedy=[[1], [0]]).advantage.tolist() == [[0, -1], [0, 1]]
    assert REMAX.credit(rewards, greedy=[[1, 1], [0, 0]]).advantage.tolist() == [[0, -1], [0, 1]]
    assert OVERLONG.credit(rewards, length=[[9, 10], [8, 10]], max_tokens=10).advantage.tolist() == [[0.5, -2], [-1, 0]]


def test_a_response_has_one_token_of_one_by_default() -> None:
    """So it has the whole length penalty of -1; of two tokens, one is short enough for none."""
    np.testing.assert_allclose(OVERLONG.credit([[1, 0]]).advantage, [[0, -2]], atol=1e-12)
    np.testing.assert_allclose(OVERLONG.credit([[1, 0]], max_tokens=2).advantage, [[1, -1]], atol=1e-12)


def test_a_greedy_response_known_by_its_reward_has_one_token() -> None:
    remax = replace(REMAX, shape=OverlongShaped())
    length = [[1, 2]]  # of 2: no penalty, and -1
    of_two = remax.credit([[1, 1]], greedy=[1], length=length, max_tokens=2)
    np.testing.assert_allclose(of_two.advantage, [[0, -1]], atol=1e-12)
    of_one = remax.credit([[1, 1]], greedy=[1], length=[[0, 1]], max_tokens=1)
    np.testing.assert_allclose(of_one.advantage, [[1, 0]], atol=1e-12)


def test_what_a_function_of_the_users_sees() -> None:
    """Flags are flags and counts are counts, so that `~` and indexing work on them."""
    kinds: list[str] = []

    def look(r: Responses) -> BoolArray:
        kinds.extend(x.dtype.kind for x in (r.prompt_R, r.reward_R, r.correct_R, r.length_R, r.truncated_R))
        whole_R: BoolArray = ~r.truncated_R
        return whole_R

    assert Algorithm(select=look).credit([[1, 0]]).keep.all()
    assert kinds == ["i", "f", "b", "i", "b"]


def test_ties_are_broken_by_seed_0_by_default() -> None:
    dpo, ties = get_algorithm("iterative_dpo"), [[1, 1, 1, 0, 0, 0]] * 4
    kept = [dpo.credit(ties, seed=seed).keep.tolist() for seed in (0, 1)]
    assert kept[0] != kept[1]
    assert dpo.credit(ties).keep.tolist() == kept[0]


def test_advantages_are_floats_whatever_a_shape_returns() -> None:
    with unchecked():
        credit = Algorithm(shape=lambda r: r.correct_R.astype(np.int64)).credit([[1, 0]])
    assert credit.advantage.dtype == np.float64


@pytest.mark.parametrize("shape", [signed, zero_one])
def test_a_shape_of_graded_rewards_is_a_copy(shape: Callable[[Responses], FloatArray]) -> None:
    reward_R, one_R = np.array([0.5, 1.0]), np.ones(2, dtype=np.int64)
    rows = Responses(np.zeros(2, dtype=np.int64), reward_R, reward_R >= 1, one_R, one_R == 0, graded=True)
    assert shape(rows).tolist() == [0.5, 1.0]
    assert not np.shares_memory(shape(rows), reward_R), "who changes it does not change the rewards"


def test_rewards_of_minus_one_are_not_graded() -> None:
    assert Algorithm(shape=zero_one).credit([[-1, 1, 0]]).advantage.tolist() == [[0, 1, 0]]
    assert Algorithm(shape=zero_one).credit([[-1, 1, 0.5]]).advantage.tolist() == [[-1, 1, 0.5]]


def test_a_group_of_one_leaves_no_others() -> None:
    """Refused by `credit`; called by itself, 0 and not NaN."""
    one_R = np.ones(1, dtype=np.int64)
    rows = Responses(one_R, one_R.astype(np.float64), one_R == 1, one_R, one_R == 0)
    assert leave_one_out(rows, np.array([1.0])).tolist() == [0.0]


def test_an_advantage_of_zero_is_kept_where_another_term_needs_the_response() -> None:
    uniform = [[1, 1], [1, 0]]
    grpo = get_algorithm("grpo")
    assert grpo.credit(uniform).keep.tolist() == [[False, False], [True, True]]
    assert with_axes(grpo, {"kl_coefficient": 0.1}).credit(uniform).keep.all()
    ppo = replace(get_algorithm("ppo"), advantage=group_centred)
    assert ppo.credit(uniform).keep.all(), "the critic learns from it"


def test_a_greedy_response_known_by_its_reward_is_not_truncated() -> None:
    """Whatever the sampled responses are."""

    def whole(r: Responses) -> FloatArray:
        return (~r.truncated_R).astype(np.float64)

    remax = replace(REMAX, shape=whole)
    one_R = np.ones(2, dtype=np.int64)
    rows = Responses(one_R, one_R.astype(np.float64), one_R == 1, one_R, np.array([True, False]), greedy_R=np.zeros(2))
    assert remax.credit(rows).advantage.tolist() == [-1, 0]


def test_the_length_penalty_is_at_most_one() -> None:
    assert OVERLONG.credit([[1]], length=[[200]], max_tokens=100).advantage.tolist() == [[0]]


def test_leave_one_out_of_a_pair() -> None:
    assert get_algorithm("rloo").credit([[1, 0]]).advantage.tolist() == [[2, -2]]


def test_without_samples_flat_rows_are_all_kept() -> None:
    ada = get_algorithm("reinforce_ada")
    assert ada.credit([1, 0, 0, 0], prompt=[3] * 4).keep.all()
    assert ada.credit([[1, 0, 0, 0]], samples=2).keep.sum() == 2


def test_less_by_rounding_still_reaches_a_bound() -> None:
    at, below = 1 - ROUNDING, 1 - 3 * ROUNDING
    assert Algorithm(select=correct).credit([[at, below]]).keep.tolist() == [[True, False]]
    assert get_algorithm("raft").credit([[1.5, 1.5 - ROUNDING, 1.5 - 3 * ROUNDING]]).keep.tolist() == [
        [True, True, False]
    ]
    assert REMAX.credit([[1, 0]], greedy=[at]).advantage.tolist() == [[0, -1]]
    assert REMAX.credit([[1, 0]], greedy=[below]).advantage.tolist() == [[1, 0]]


@pytest.mark.parametrize(
    ("low", "high", "constant"),
    [
        (0.0, 1e-6, True),  # absolute below 1
        (0.0, 2e-6, False),
        (-1e-6, 1e-6, False),
        (1e6, 1e6 + 1, True),  # relative above, to the larger of the two
        (1e6, 1e6 + 1.0000005, True),
        (1e6, 1e6 + 2, False),
        (-1e6 - 1.0000005, -1e6, True),
        (-1e6 - 2, -1e6, False),
    ],
)
def test_a_group_that_differs_by_rounding_only_is_constant(low: float, high: float, constant: bool) -> None:
    found = groups(np.array([4, 4]), np.array([low, high]))
    assert found.constant.tolist() == [constant] * 2
    assert (found.std == 0).all() == constant
    assert found.maximum.tolist() == [high] * 2
    if constant:
        assert found.mean.tolist() == [low, high], "each value is its own mean"


def test_minus_greedy_asks_for_the_greedy_reward_in_any_algorithm() -> None:
    with pytest.raises(UsageError, match="pass greedy="):
        Algorithm(advantage=minus_greedy).credit([[1, 0]])
    with pytest.raises(UsageError, match="pass greedy="):
        Algorithm(sampling=DynamicSampling(greedy_baseline=True)).credit([[1, 0]])


def test_the_first_reward_that_is_not_finite_is_named() -> None:
    with pytest.raises(UsageError, match="reward 2 is inf"):
        Algorithm().credit([[1.0, 0.0], [float("inf"), float("nan")]])
