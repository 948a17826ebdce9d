"""Credit against hand-worked numbers and an independent float64 version, and where it must refuse."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import sieverl
from sieverl.algorithms.algorithm import Algorithm
from sieverl.algorithms.credit import OverlongShaped, groups, signed, zero_one
from sieverl.errors import UsageError
from sieverl.types import FloatArray, Responses

Shape = Callable[[Responses], FloatArray]
MIXED = [[1, 0, 0, 0]]  # signed: 1, -1, -1, -1: mean -0.5, std (n-1) 1
HAND: dict[str, list[float]] = {  # the advantage of MIXED, worked by hand
    "raft": [1, 1, 1, 1],
    "raft_pp": [1, 1, 1, 1],
    "reinforce": [1, -1, -1, -1],
    "reinforce_rej": [1, -1, -1, -1],
    "reinforce_mean": [1.5, -0.5, -0.5, -0.5],
    "reinforce_rej_std": [1 / 1.000001, -1 / 1.000001, -1 / 1.000001, -1 / 1.000001],
    "grpo": [1.5 / 1.000001, -0.5 / 1.000001, -0.5 / 1.000001, -0.5 / 1.000001],
    "dr_grpo": [1.5, -0.5, -0.5, -0.5],
    "rloo": [2.0, -2 / 3, -2 / 3, -2 / 3],
    "reinforce_pp": [1.5 / 1.000001, -0.5 / 1.000001, -0.5 / 1.000001, -0.5 / 1.000001],
    "ppo": [1, -1, -1, -1],
}
UNIFORM = ("grpo", "dr_grpo", "rloo", "reinforce_mean", "reinforce_rej_std", "reinforce_pp", "iterative_dpo")


@pytest.mark.parametrize("name", HAND)
def test_hand_worked_advantages(name: str) -> None:
    np.testing.assert_allclose(sieverl.get_algorithm(name).credit(MIXED).advantage, [HAND[name]], rtol=1e-12)


@pytest.mark.parametrize("name", UNIFORM)
def test_a_uniform_group_has_no_advantage(name: str) -> None:
    assert sieverl.get_algorithm(name).credit([[1, 1, 1]]).advantage.tolist() == [[0, 0, 0]]


def test_remax_subtracts_the_greedy_reward_of_each_prompt() -> None:
    credit = sieverl.get_algorithm("remax").credit([[1, 0], [1, 0]], greedy=[1, 0])
    np.testing.assert_array_equal(credit.advantage, [[0, -2], [2, 0]])
    np.testing.assert_array_equal(credit.keep, [[False, True], [True, False]])
    with pytest.raises(ValueError, match="greedy="):
        sieverl.get_algorithm("remax").credit([[1, 0]])
    with pytest.raises(ValueError, match="one a prompt"):
        sieverl.get_algorithm("remax").credit([[1, 0], [1, 0]], greedy=[1, 0, 1])
    by_row = sieverl.get_algorithm("remax").credit([[1, 0], [1, 0]], greedy=[1, 1, 0, 0])
    np.testing.assert_array_equal(by_row.advantage, credit.advantage)


def greedy_rows(reward: list[float], length: list[int], max_tokens: int = 100) -> Responses:
    """One greedy response a row; right from 1 on."""
    reward_R, rows = np.array(reward, dtype=float), len(reward)
    return Responses(np.arange(rows), reward_R, reward_R >= 1, np.array(length), np.zeros(rows, bool), None, max_tokens)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (signed, [0, -2, 2, 0]),
        (zero_one, [0, -1, 1, 0]),
        # the responses have 80 and 100 of 100 tokens (penalty 0 and -1), the greedy ones 90 (-0.5)
        (OverlongShaped(0.2), [0.5, -2.5, 2.5, -0.5]),
    ],
)
def test_M9_the_greedy_response_goes_through_the_same_shape(shape: Shape, expected: list[float]) -> None:
    """Two prompts, right then wrong; the greedy response is right for the first and wrong for the second."""
    remax = replace(sieverl.get_algorithm("remax"), shape=shape)
    rows = replace(
        greedy_rows([1, 0, 1, 0], [80, 100, 80, 100]),
        prompt_R=np.array([0, 0, 1, 1]),
        greedy=greedy_rows([1, 1, 0, 0], [90] * 4),
    )
    credit = remax.credit(rows)
    np.testing.assert_allclose(credit.advantage, expected)
    np.testing.assert_array_equal(credit.keep, np.array(expected) != 0)


def test_M9_bare_greedy_rewards_are_shaped_too() -> None:
    """Of a greedy response that is known by its reward only, the length is taken as one token: no penalty."""
    remax = replace(sieverl.get_algorithm("remax"), shape=zero_one)
    assert remax.credit([[1, 0], [1, 0]], greedy=[1, 0]).advantage.tolist() == [[0, -1], [1, 0]]
    overlong = replace(remax, shape=OverlongShaped(0.2))
    credit = overlong.credit([[1, 0]], greedy=[1], length=[[90, 10]], max_tokens=100)
    assert credit.advantage.tolist() == [[-0.5, -2.0]]


def test_M9_graded_rewards_are_compared_as_they_are() -> None:
    credit = sieverl.get_algorithm("remax").credit([[0.5, 1.0]], greedy=[0.25])
    assert credit.advantage.tolist() == [[0.25, 0.75]]


def test_dpo_keeps_one_pair_a_prompt_and_breaks_ties_by_the_seed() -> None:
    dpo = sieverl.get_algorithm("iterative_dpo")
    rewards = [[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0], [0.2, 0.9, 0.5, 0.1]]
    credit = dpo.credit(rewards, seed=0)
    assert credit.keep.sum(1).tolist() == [2, 0, 2]
    assert credit.advantage[2].tolist() == [0, 1, 0, -1]
    best, worst = credit.advantage[0].argmax(), credit.advantage[0].argmin()
    assert (best in (0, 1), worst in (2, 3)) == (True, True)
    picks = {tuple(dpo.credit([[1, 1, 0, 0]], seed=s).advantage[0]) for s in range(40)}
    assert len(picks) == 4, "each of the four pairs is drawn by some seed"


def keep(name: str, rewards: list[list[float]], **more: Any) -> list[list[bool]]:
    kept: list[list[bool]] = sieverl.get_algorithm(name).credit(rewards, **more).keep.tolist()
    return kept


def test_what_each_selection_keeps() -> None:
    rewards = [[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]]
    f, t = [False, False], [True, True]
    assert keep("raft", rewards) == keep("raft_pp", rewards) == [f, [True, False], t]
    assert keep("reinforce", rewards) == keep("ppo", rewards) == [t, t, t]
    assert keep("reinforce_rej", rewards) == keep("dapo", rewards) == [f, t, f]
    assert keep("reinforce_drop_wrong", rewards) == [f, t, t]
    assert keep("reinforce_drop_correct", rewards) == [t, t, f]
    assert keep("grpo", rewards) == keep("rloo", rewards) == keep("dr_grpo", rewards) == [f, t, f]


def test_graded_rewards() -> None:
    raft = sieverl.get_algorithm("raft")
    assert raft.credit([[1.0, 1.5, 0.5]]).keep.tolist() == [[False, True, False]], "correct and at the group's maximum"
    reinforce = sieverl.get_algorithm("reinforce")
    assert reinforce.credit([[0.2, 0.7]]).advantage.tolist() == [[0.2, 0.7]], "the raw reward where it is graded"
    assert reinforce.credit([[0.0, 1.0]]).advantage.tolist() == [[-1.0, 1.0]]
    assert reinforce.credit([[0.0, 1.0]], graded=True).advantage.tolist() == [[0.0, 1.0]]


def test_overlong_shaping_is_in_the_advantage_and_not_in_correct() -> None:
    length = [[80, 90, 100]]
    shaped = Algorithm(shape=OverlongShaped(0.2)).credit([[1, 1, 1]], length=length, max_tokens=100)
    np.testing.assert_allclose(shaped.advantage, [[1.0, 0.5, 0.0]])
    assert keep("dapo", [[1, 1, 1]], length=length, max_tokens=100) == [[False] * 3], "all correct, whatever its length"


def test_ragged_groups_in_any_order_equal_each_group_alone() -> None:
    prompt = np.array([3, 1, 3, 1, 3, 1, 1])
    rewards = np.array([1.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0])
    for name in ("grpo", "rloo", "reinforce_rej", "reinforce_rej_std"):
        algorithm = sieverl.get_algorithm(name)
        together = algorithm.credit(rewards, prompt=prompt)
        for p in (1, 3):
            alone = algorithm.credit(rewards[None, prompt == p])
            np.testing.assert_allclose(together.advantage[prompt == p], alone.advantage[0])
            np.testing.assert_array_equal(together.keep[prompt == p], alone.keep[0])


def test_refusals_name_what_is_wrong() -> None:
    for name in ("grpo", "rloo", "dr_grpo", "reinforce_rej", "iterative_dpo"):
        with pytest.raises(ValueError, match="at least 2"):
            sieverl.get_algorithm(name).credit([[1], [0]])
    for name in ("raft", "reinforce", "ppo", "reinforce_pp"):
        assert sieverl.get_algorithm(name).credit([[1], [0]]).keep.shape == (2, 1)
    with pytest.raises(ValueError, match="finite"):
        sieverl.get_algorithm("reinforce").credit([[1, float("nan")]])
    with pytest.raises(ValueError, match="prompt="):
        sieverl.get_algorithm("reinforce").credit([1, 0])
    with pytest.raises(ValueError, match="one prompt a reward"):
        sieverl.get_algorithm("reinforce").credit([1, 0], prompt=[0])
    with pytest.raises(UsageError, match="Did you mean grpo"):
        sieverl.get_algorithm("gropo")


def test_float_noise_in_a_constant_group_is_still_constant() -> None:
    noisy = [[0.1 + 0.2, 0.3, 0.3 + 1e-9, 0.30000001]]
    for name in UNIFORM:
        credit = sieverl.get_algorithm(name).credit(noisy)
        assert credit.advantage.tolist() == [[0, 0, 0, 0]], name
        assert not credit.keep.any()


def test_empty_and_all_rejected() -> None:
    assert sieverl.get_algorithm("grpo").credit(np.zeros((0, 4))).keep.shape == (0, 4)
    assert not sieverl.get_algorithm("raft").credit([[0, 0]]).keep.any()


# --- an independent version: plain loops over lists ----------------------------------------------------


def reference(name: str, rewards: list[list[int]]) -> list[list[float]]:
    out: list[list[float]] = []
    flat = [2 * x - 1 for row in rewards for x in row]
    for row in rewards:
        r = [2.0 * x - 1 for x in row]
        n, mean = len(r), sum(r) / len(r)
        std = (sum((x - mean) ** 2 for x in r) / (n - 1)) ** 0.5
        if name in ("reinforce", "reinforce_rej"):
            out.append(r)
        elif name in ("reinforce_mean", "dr_grpo"):
            out.append([x - mean for x in r])
        elif name in ("grpo", "gspo", "cispo"):
            out.append([(x - mean) / (std + 1e-6) for x in r])
        elif name == "rloo":
            out.append([x - (sum(r) - x) / (n - 1) for x in r])
        elif name == "reinforce_rej_std":
            out.append([x / (std + 1e-6) if std > 0 else 0.0 for x in r])
        elif name == "reinforce_pp":
            m = sum(flat) / len(flat)
            s = (sum((x - m) ** 2 for x in flat) / (len(flat) - 1)) ** 0.5
            out.append([(x - m) / (s + 1e-6) for x in r])
    return out


@given(st.integers(2, 6).flatmap(lambda n: st.lists(st.lists(st.integers(0, 1), min_size=n, max_size=n), min_size=1)))
def test_advantages_equal_plain_loops(rewards: list[list[int]]) -> None:
    for name in ("reinforce", "reinforce_mean", "grpo", "rloo", "reinforce_rej_std", "reinforce_pp", "dr_grpo", "gspo"):
        ours = sieverl.get_algorithm(name).credit(rewards).advantage
        np.testing.assert_allclose(ours, reference(name, rewards), rtol=1e-9, atol=1e-9, err_msg=name)


@given(st.lists(st.lists(st.floats(-5, 5), min_size=4, max_size=4), min_size=1, max_size=6), st.randoms())
def test_credit_does_not_depend_on_the_order_of_rows(rewards: list[list[float]], random: Random) -> None:
    prompt = np.repeat(np.arange(len(rewards)), 4)
    flat = np.array(rewards).ravel()
    order = np.array(random.sample(range(len(flat)), len(flat)))
    for name in ("grpo", "rloo", "reinforce_rej", "raft"):
        algorithm = sieverl.get_algorithm(name)
        straight, shuffled = (algorithm.credit(flat[i], prompt=prompt[i]) for i in (np.arange(len(flat)), order))
        np.testing.assert_allclose(straight.advantage[order], shuffled.advantage, rtol=1e-9, atol=1e-9)
        np.testing.assert_array_equal(straight.keep[order], shuffled.keep)


def test_group_moments_of_one() -> None:
    g = groups(np.array([1, 2, 2]), np.array([5.0, 1.0, 3.0]))
    assert g.std.tolist() == [0.0, 2**0.5, 2**0.5]
    assert g.size.tolist() == [1, 2, 2]


def test_responses_are_accepted_too() -> None:
    rows = replace(greedy_rows([1.0, 0.0], [3, 4]), prompt_R=np.array([0, 0]))
    assert sieverl.get_algorithm("grpo").credit(rows).keep.tolist() == [True, True]


def test_rewards_rise_and_so_do_advantages() -> None:
    for name in ("reinforce", "grpo", "rloo", "dr_grpo", "reinforce_pp"):
        advantage = sieverl.get_algorithm(name).credit([[0.1, 0.4, 0.5, 0.9]]).advantage[0]
        assert all(a < b for a, b in pairwise(advantage)), name
