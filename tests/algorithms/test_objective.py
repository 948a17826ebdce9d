"""Losses: ratios, objectives and aggregates against hand-worked numbers, plain loops, finite differences."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from ten_tokens import F64, LENGTHS, given, lists, split, tokens

from sieverl.algorithms import ALGORITHMS, get_algorithm
from sieverl.algorithms import objective as obj
from sieverl.algorithms.algorithm import Algorithm
from sieverl.algorithms.needs import needs_of
from sieverl.algorithms.objective import Clipped, ClippedWeight, PairLogistic
from sieverl.algorithms.token_advantage import Gae, KlInReward, to_tokens, whiten
from sieverl.algorithms.tokens import Denominator, Tokens


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


def test_value_loss_by_hand() -> None:
    v, old, ret = (torch.tensor([x], dtype=F64) for x in (1.0, 0.0, 2.0))
    assert obj.value_loss(v, old, ret, None).item() == pytest.approx(0.5)
    assert obj.value_loss(v, old, ret, 0.2).item() == pytest.approx(0.5 * 1.8**2)


def test_off_policy_engine_weight_multiplies_each_term() -> None:
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


def test_outside_begins_beyond_the_clip_and_not_at_it() -> None:
    """At the clip itself the gradient is still there."""
    ratio = torch.tensor([2.0, 2.01, 0.5, 0.49, 3.0, 3.01, 9.0, 0.1], dtype=F64)
    sign = torch.tensor([1.0, 1, -1, -1, -1, -1, 0, 0], dtype=F64)
    t = Tokens(torch.zeros(8, dtype=F64), torch.arange(8), sign)
    assert Clipped(0.5, 1.0, dual=3.0).outside(t, ratio).tolist() == [False, True] * 3 + [False] * 2
    assert Clipped(0.5, 1.0).outside(t, ratio).tolist() == [False, True] * 2 + [False] * 4
    assert ClippedWeight(1.0).outside(t, ratio).tolist() == [False, True, False, False, True, True, True, False]


def test_dual_clip_leaves_positive_advantages_alone() -> None:
    t = Tokens(torch.zeros(3, dtype=F64), torch.arange(3), torch.tensor([1.0, -1.0, 0.0], dtype=F64))
    ratio = torch.full((3,), 9.0, dtype=F64)
    assert Clipped(0.2, 20.0, dual=2.0)(t, ratio).tolist() == [-9.0, 2.0, 0.0]


def test_without_a_denominator_the_sequences_that_are_here_count() -> None:
    t = replace(tokens(), denominator=None)
    assert t.counted() == Denominator(LENGTHS, LENGTHS, pairs=2, max_tokens=1)
    assert replace(t, pair_S=None).counted().pairs == 0
    counts = {name: get_algorithm(name).loss(t)[1] for name in ("reinforce", "cispo", "rloo", "iterative_dpo")}
    assert counts == {"reinforce": 4, "cispo": 10, "rloo": 4, "iterative_dpo": 2}


def test_no_tokens_at_all_are_a_loss_of_zero() -> None:
    none = torch.zeros(0, dtype=F64)
    t = Tokens(none, torch.zeros(0, dtype=torch.long), none, old_T=none, ref_T=none, pair_S=torch.zeros(0).long())
    assert t.counted() == Denominator([], [], pairs=0, max_tokens=1)
    for name in ("reinforce", "cispo", "gspo", "iterative_dpo"):
        total, count = get_algorithm(name).loss(t)
        assert (total.item(), count) == (0.0, 1.0), name


def test_functions_that_do_without_the_ratio_say_so() -> None:
    free = [obj.log_prob, obj.k1, obj.k2, obj.k3, obj.negative_entropy, to_tokens, Gae(), KlInReward(), PairLogistic()]
    assert all(getattr(function, "ratio_free", False) for function in free)
    assert not any(getattr(function, "ratio_free", False) for function in (Clipped(), ClippedWeight()))
    assert [needs_of(f) for f in (obj.k1, obj.k2, obj.k3)] == [{"ref"}] * 3
    assert needs_of(obj.negative_entropy) == {"entropy"}


def test_value_loss_takes_the_larger_of_both_and_clips_on_either_side() -> None:
    v, old, ret = (torch.tensor(x, dtype=F64) for x in ([1.0, -1.0, 0.1], [0.0, 0.0, 0.0], [3.0, -3.0, 0.0]))
    # near: 0.2, -0.2, 0.1; (near - R)^2 = 2.8^2, 2.8^2, 0.01 against (v - R)^2 = 4, 4, 0.01
    assert obj.value_loss(v, old, ret, 0.2).tolist() == pytest.approx([0.5 * 2.8**2, 0.5 * 2.8**2, 0.5 * 0.01])
    toward = obj.value_loss(v, old, torch.zeros(3, dtype=F64), 0.2)
    assert toward.tolist() == pytest.approx([0.5, 0.5, 0.5 * 0.01]), "the clipped one is smaller"
