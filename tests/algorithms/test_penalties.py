"""Penalties: KL and entropy, over kept and over all sampled responses."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import pytest
import torch
from ten_tokens import F64, LENGTHS, lists, split, tokens

from sieverl.algorithms import get_algorithm
from sieverl.algorithms import objective as obj
from sieverl.algorithms.algorithm import Algorithm
from sieverl.algorithms.axes import with_axes
from sieverl.algorithms.objective import Penalty
from sieverl.algorithms.tokens import Denominator, Tokens

Over = Literal["kept", "sampled"]


def test_penalties_by_hand_and_by_finite_differences() -> None:
    t = Tokens(
        torch.tensor([-1.0], dtype=F64),
        torch.tensor([0]),
        torch.zeros(1, dtype=F64),
        ref_T=torch.tensor([-1.5], dtype=F64),
    )
    assert obj.k1(t).item() == pytest.approx(0.5)
    assert obj.k2(t).item() == pytest.approx(0.125)
    assert obj.k3(t).item() == pytest.approx(math.exp(-0.5) + 0.5 - 1)
    assert obj.K3(limit=0.01)(t).item() == pytest.approx(0.01)
    for function in (obj.k2, obj.k3):
        base = tokens()
        assert torch.autograd.gradcheck(lambda x, f=function, b=base: f(replace(b, logp_T=x)), (base.logp_T,))
    total, count = with_axes(get_algorithm("reinforce"), {"entropy_coefficient": 0.01}).loss(tokens())
    plain, _ = get_algorithm("reinforce").loss(tokens())
    entropy = lists(tokens()).entropy
    assert total.item() == pytest.approx(plain.item() - 0.01 * sum(sum(r) / len(r) for r in entropy))
    assert count == 4


def test_penalty_over_sampled_and_over_kept_have_their_own_denominators() -> None:
    kept = torch.tensor([1.0, 1, 1, 0, 0, 0, 0, 0, 1, 1], dtype=F64)
    t = replace(tokens(), kept_T=kept, denominator=Denominator([3, 2], [3, 1, 4, 2], pairs=0, max_tokens=8))
    k = obj.k2(t).detach()
    means = [x.mean().item() for x in torch.split(k, LENGTHS)]
    base = replace(get_algorithm("reinforce"), denominator="kept")
    plain = base.loss(t)[0].item() / 2
    cases: list[tuple[Over, float]] = [("kept", (means[0] + means[3]) / 2), ("sampled", sum(means) / 4)]
    for over, expected in cases:
        total, count = replace(base, penalties=(Penalty(obj.k2, 0.5, over),)).loss(t)
        assert total.item() / count == pytest.approx(plain + 0.5 * expected)


def test_M12_nothing_selected_and_a_penalty_over_all_sampled() -> None:
    """The objective has nothing to divide by; the penalty has its own denominator and is not lost."""
    t = replace(
        tokens(), kept_T=torch.zeros(10, dtype=F64), denominator=Denominator([], LENGTHS, pairs=0, max_tokens=8)
    )
    algorithm = replace(get_algorithm("raft"), penalties=(Penalty(obj.k2, 0.5, "sampled"),))
    total, count = algorithm.loss(t)
    expected = 0.5 * sum(x.mean().item() for x in torch.split(obj.k2(t).detach(), LENGTHS)) / 4
    assert total.item() / count == pytest.approx(expected)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("limit", [1e-3, 10.0, 1000.0])
@pytest.mark.parametrize("log_ratio", [-100_000.0, -1100.0, 1100.0, 100_000.0, -100.0, 100.0])
def test_M13_the_clamped_k3_has_no_gradient_far_away(dtype: torch.dtype, limit: float, log_ratio: float) -> None:
    logp = torch.tensor([-log_ratio], dtype=dtype, requires_grad=True)
    t = Tokens(logp, torch.tensor([0]), torch.zeros(1, dtype=dtype), ref_T=torch.zeros(1, dtype=dtype))
    value = obj.K3(limit)(t)
    (grad,) = torch.autograd.grad(value.sum(), logp)
    if limit > 100 and log_ratio == -100:  # exp(-100) + 100 - 1 is within that limit
        assert (value.item(), grad.item()) == (pytest.approx(99), pytest.approx(1))
    else:
        assert (value.item(), grad.item()) == (pytest.approx(limit), 0.0)


def test_M19_what_the_documentation_says_of_penalties_and_of_the_engines_weight() -> None:
    """A quarter of the responses is kept: over = sampled, the mean of the kept penalty counts by a quarter."""
    kept = torch.tensor([1.0] * 3 + [0.0] * 7, dtype=F64)
    mean = obj.k2(tokens()).detach()[:3].mean().item()
    bare = Algorithm(objective=lambda t, ratio_T: 0.0 * t.logp_T, penalties=(Penalty(obj.k2, 0.5, "kept"),))
    cases: list[tuple[Over, list[int], float]] = [("sampled", LENGTHS, 0.5 / 4), ("kept", [3], 0.5)]
    for over, lengths, weight in cases:
        t = replace(tokens(), kept_T=kept, denominator=Denominator(lengths, LENGTHS, pairs=0, max_tokens=8))
        for engine in (None, torch.full((10,), 2.0, dtype=F64)):
            total, count = replace(bare, denominator=over).loss(replace(t, weight_T=engine))
            assert total.item() / count == pytest.approx(weight * mean), "the engine's weight multiplies no penalty"
    dpo, t = get_algorithm("iterative_dpo"), tokens()
    assert dpo.loss(replace(t, weight_T=torch.full((10,), 2.0, dtype=F64)))[0].item() == dpo.loss(t)[0].item()


@pytest.mark.parametrize("name", ["reinforce", "rloo", "cispo", "iterative_dpo"])
def test_a_penalty_is_aggregated_as_the_loss_is_and_over_responses_where_that_is_over_pairs(name: str) -> None:
    t, algorithm = tokens(), get_algorithm(name)
    k2 = split(obj.k2(t))
    means, total = [sum(row) / len(row) for row in k2], sum(map(sum, k2))
    expected = {
        "reinforce": sum(means) / 4,  # a mean over sequences of means over tokens
        "rloo": total / (4 * 8),  # max_tokens = 8
        "cispo": total / 10,
        "iterative_dpo": sum(means) / 4,
    }
    with_penalty = replace(algorithm, penalties=(Penalty(obj.k2, 0.5),))
    plain, count = algorithm.loss(t)
    penalised, same = with_penalty.loss(t)
    assert same == count
    assert (penalised - plain).item() / count == pytest.approx(0.5 * expected[name])


@pytest.mark.parametrize("log_ratio", [-0.3, -0.1, 0.0, 0.1, 0.3])
def test_within_its_limit_the_clamped_k3_is_the_plain_one(log_ratio: float) -> None:
    t = Tokens(
        torch.tensor([-log_ratio], dtype=F64),
        torch.tensor([0]),
        torch.zeros(1, dtype=F64),
        ref_T=torch.zeros(1).double(),
    )
    assert obj.K3(0.1)(t).item() == obj.k3(t).item() == pytest.approx(math.exp(log_ratio) - log_ratio - 1)


def test_nothing_selected_and_a_penalty_over_what_is_kept() -> None:
    """Nothing to divide by and nothing to divide: zero, and not NaN."""
    t = replace(
        tokens(), kept_T=torch.zeros(10, dtype=F64), denominator=Denominator([], LENGTHS, pairs=0, max_tokens=8)
    )
    for name in ("raft", "cispo", "rloo"):
        total, count = replace(get_algorithm(name), penalties=(Penalty(obj.k2, 0.5, "kept"),)).loss(t)
        assert (total.item(), count) == (0.0, 1.0), name
