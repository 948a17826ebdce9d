"""Losses: ratios, objectives, penalties and aggregates against hand-worked numbers, plain loops, finite differences."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import pytest
import torch
from ten_tokens import F64, LENGTHS, given, lists, split, tokens

from sieverl.algorithms import ALGORITHMS, get_algorithm
from sieverl.algorithms import objective as obj
from sieverl.algorithms.algorithm import Algorithm
from sieverl.algorithms.axes import with_axes
from sieverl.algorithms.objective import Clipped, ClippedWeight, Penalty
from sieverl.algorithms.token_advantage import whiten
from sieverl.algorithms.tokens import Denominator, Tokens

Over = Literal["kept", "sampled"]


def plain_loss(name: str, t: Tokens) -> float:
    """Loss over count by plain loops, written from the formulas and not from the code."""
    x = lists(t)
    total = 0.0
    clip = {"raft_pp_clip_higher": (0.2, 0.28), "dapo": (0.2, 0.28), "reinforce_ada": (0.2, 0.28), "gspo": (3e-4, 4e-4)}
    low, high = clip.get(name, (0.2, 0.2))
    if name == "iterative_dpo":
        for pair in ((0, 1), (2, 3)):
            m = sum(x.advantage[i][t_] * (x.logp[i][t_] - x.ref[i][t_]) for i in pair for t_ in range(LENGTHS[i]))
            total += math.log(1 + math.exp(-0.1 * m))
        return total / 2
    for i, n in enumerate(LENGTHS):
        logs = [a - b for a, b in zip(x.logp[i], x.old[i], strict=True)]
        for j in range(n):
            s, adv, logp = math.exp(logs[j]), x.advantage[i][j], x.logp[i][j]
            if name == "gspo":
                s = math.exp(sum(logs) / n)
            if name in ("raft", "rloo", "remax"):
                loss = -adv * logp
            elif name == "cispo":
                loss = -min(s, 5.0) * adv * logp
            elif name == "raft_is":
                loss = -s * adv
            else:
                loss = -min(s * adv, min(max(s, 1 - low), 1 + high) * adv)
            weight = {"dapo": 1 / 10, "cispo": 1 / 10}.get(name, 1 / (4 * n))
            if name in ("rloo", "remax", "dr_grpo"):
                weight = 1 / (4 * 8)
            total += weight * loss
    return total


@pytest.mark.parametrize("name", ALGORITHMS)
def test_loss_equals_plain_loops(name: str) -> None:
    total, count = get_algorithm(name).loss(tokens())
    assert total.item() / count == pytest.approx(plain_loss(name, tokens()), rel=1e-12)


@pytest.mark.parametrize("name", [name for name in ALGORITHMS if name != "cispo"])
def test_gradients_by_finite_differences(name: str) -> None:
    t = tokens()

    def loss(logp: torch.Tensor) -> torch.Tensor:
        total, count = get_algorithm(name).loss(replace(t, logp_T=logp))
        return total / count

    assert torch.autograd.gradcheck(loss, (t.logp_T,), eps=1e-7, atol=1e-7)


def test_cispo_gradient_is_its_closed_form() -> None:
    t = tokens()
    total, _ = get_algorithm("cispo").loss(t)
    (grad,) = torch.autograd.grad(total, t.logp_T)
    expected = -(t.logp_T - given(t.old_T)).exp().clamp(max=5.0) * t.advantage_T
    torch.testing.assert_close(grad, expected.detach(), rtol=1e-12, atol=0)


def test_without_old_log_probs_the_ratio_is_one_and_has_the_policy_gradient() -> None:
    t = replace(tokens(), old_T=None)
    total, _ = Algorithm().loss(t)
    (grad,) = torch.autograd.grad(total, t.logp_T)
    length = torch.tensor(LENGTHS, dtype=F64)[t.response_T]
    torch.testing.assert_close(grad, -t.advantage_T / length)
    assert total.item() == pytest.approx(-(1.0 - 1.0 + 0.5 - 2.0)), "on-policy it reads minus the mean advantage"


def test_clipping_by_hand() -> None:
    one = torch.tensor([math.log(1.5), math.log(0.5), math.log(1.5), math.log(0.5)], dtype=F64)
    t = Tokens(one, torch.arange(4), torch.tensor([1.0, 1.0, -1.0, -1.0], dtype=F64), old_T=torch.zeros(4, dtype=F64))
    ratio = obj.per_token(t)
    assert Clipped(0.2, 0.2)(t, ratio).tolist() == pytest.approx([-1.2, -0.5, 1.5, 0.8])
    assert Clipped(0.2, 0.2).outside(t, ratio).tolist() == [True, False, False, True]
    assert Clipped(0.2, 0.28)(t, ratio).tolist() == pytest.approx([-1.28, -0.5, 1.5, 0.8])
    assert Clipped(0.2, 0.2, dual=1.1)(t, ratio).tolist() == pytest.approx([-1.2, -0.5, 1.1, 0.8])
    assert obj.unclipped(t, ratio).tolist() == pytest.approx([-1.5, -0.5, 1.5, 0.5])
    assert ClippedWeight(0.2).outside(t, ratio).tolist() == [True, False, True, False]


def test_sequence_ratio_by_hand() -> None:
    t = Tokens(
        torch.tensor([0.1, 0.3, -0.2], dtype=F64),
        torch.tensor([0, 0, 1]),
        torch.ones(3, dtype=F64),
        torch.zeros(3, dtype=F64),
    )
    assert obj.per_sequence(t).tolist() == pytest.approx([math.exp(0.2)] * 2 + [math.exp(-0.2)])


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


def test_M13_dual_clip_counts_as_clipped() -> None:
    ratio = torch.tensor([3.5, 2.5, 0.5, 3.5], dtype=F64)
    sign = torch.tensor([-1.0, -1.0, -1.0, 1.0], dtype=F64)
    t = Tokens(ratio.log(), torch.arange(4), sign, old_T=torch.zeros(4, dtype=F64))
    assert Clipped(0.2, 0.2).outside(t, ratio).tolist() == [False, False, True, True]
    assert Clipped(0.2, 0.2, dual=3.0).outside(t, ratio).tolist() == [True, False, True, True]
    logp = ratio.log().requires_grad_()
    clipped = Clipped(0.2, 0.2, dual=3.0)
    inside = replace(t, logp_T=logp)
    (grad,) = torch.autograd.grad(clipped(inside, obj.per_token(inside)).sum(), logp)
    assert (grad == 0).tolist() == clipped.outside(t, ratio).tolist(), "exactly where the gradient is zero"


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


def test_value_loss_by_hand() -> None:
    v, old, ret = (torch.tensor([x], dtype=F64) for x in (1.0, 0.0, 2.0))
    assert obj.value_loss(v, old, ret, None).item() == pytest.approx(0.5)
    assert obj.value_loss(v, old, ret, 0.2).item() == pytest.approx(0.5 * 1.8**2)


def test_foreign_engine_weight_multiplies_each_term() -> None:
    weight = torch.linspace(0.5, 2.0, 10, dtype=F64)
    t = tokens()
    total, _ = get_algorithm("reinforce").loss(replace(t, weight_T=weight))
    weighted = split(obj.Clipped(0.2, 0.2)(t, obj.per_token(t)) * weight)
    assert total.item() == pytest.approx(sum(sum(losses) / len(losses) for losses in weighted))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_sums_add_over_micro_batches(name: str) -> None:
    """Sums over two halves, and one division by a count known before any forward, give the whole."""
    t = tokens()
    algorithm = get_algorithm(name)
    whole, count = algorithm.loss(t)
    parts = 0.0
    for rows, start in ((slice(0, 4), 0), (slice(4, 10), 2)):
        cut = {n: getattr(t, n)[rows] for n in ("logp_T", "advantage_T", "old_T", "ref_T", "value_T", "entropy_T")}
        half = replace(
            t,
            **cut,
            response_T=t.response_T[rows] - start,
            pair_S=given(t.pair_S)[start : start + 2],
            denominator=Denominator(LENGTHS, LENGTHS, pairs=2, max_tokens=8),
        )
        part, half_count = algorithm.loss(half)
        assert half_count == count
        parts += part.item()
    assert parts == pytest.approx(whole.item(), rel=1e-12)


def test_shapes_are_checked_under_pytest() -> None:
    with pytest.raises(TypeError, match=r"logp_T|advantage_T"):
        Tokens(torch.zeros(3), torch.zeros(3, dtype=torch.long), torch.zeros(2))
    with pytest.raises(TypeError):
        whiten(torch.zeros(2, 2))


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
