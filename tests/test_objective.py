"""Ratios, objectives, penalties, spreads and aggregates: hand-worked numbers, plain NumPy loops, finite differences."""

from __future__ import annotations

import contextlib
import math
from dataclasses import replace

import jaxtyping
import numpy as np
import pytest
import torch

from sieverl import objective as obj
from sieverl.algorithm import Algorithm
from sieverl.algorithms import ALGORITHMS, get_algorithm
from sieverl.axes import with_axes
from sieverl.objective import Clipped, ClippedWeight, Gae, PairLogistic, Penalty, Tokens

LENGTHS = [3, 1, 4, 2]
F64 = torch.float64


@contextlib.contextmanager
def unchecked():
    """As a user runs it: types and shapes are checked in tests only."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


def tokens(seed=0, requires_grad=True, **changes) -> Tokens:
    """Ten tokens of four sequences, two pairs, away from the kinks of clipping."""
    g = np.random.default_rng(seed)
    response = np.repeat(np.arange(4), LENGTHS)
    old = -g.uniform(0.1, 3.0, 10)
    logp = old + g.choice([-0.4, -0.1, 0.05, 0.35], 10)
    values = {
        "logp_T": torch.tensor(logp, dtype=F64, requires_grad=requires_grad),
        "response_T": torch.tensor(response),
        "advantage_T": torch.tensor(np.array([1.0, -1.0, 0.5, -2.0])[response], dtype=F64),
        "old_T": torch.tensor(old, dtype=F64),
        "ref_T": torch.tensor(logp + g.normal(0, 0.3, 10), dtype=F64),
        "value_T": torch.tensor(g.normal(0, 1, 10), dtype=F64),
        "entropy_T": torch.tensor(g.uniform(0, 2, 10), dtype=F64, requires_grad=requires_grad),
        "pair_S": torch.tensor([7, 7, 9, 9]),
        "max_tokens": 8,
    }
    return Tokens(**{**values, **changes})


def lists(t: Tokens):
    """The same as plain lists, one per sequence."""

    def rows(x):
        return [r.tolist() for r in torch.split(x.detach(), LENGTHS)]

    return {n: rows(getattr(t, n)) for n in ("logp_T", "advantage_T", "old_T", "ref_T", "value_T", "entropy_T")}


def plain_loss(name: str, t: Tokens) -> float:
    """Loss over count by plain loops, written from the formulas and not from the code."""
    x = lists(t)
    total = 0.0
    clip = {"raft_pp_clip_higher": (0.2, 0.28), "dapo": (0.2, 0.28), "reinforce_ada": (0.2, 0.28), "gspo": (3e-4, 4e-4)}
    low, high = clip.get(name, (0.2, 0.2))
    if name == "iterative_dpo":
        for pair in ((0, 1), (2, 3)):
            m = sum(
                x["advantage_T"][i][t_] * (x["logp_T"][i][t_] - x["ref_T"][i][t_])
                for i in pair
                for t_ in range(LENGTHS[i])
            )
            total += math.log(1 + math.exp(-0.1 * m))
        return total / 2
    for i, n in enumerate(LENGTHS):
        logs = [a - b for a, b in zip(x["logp_T"][i], x["old_T"][i], strict=True)]
        for j in range(n):
            s, adv, logp = math.exp(logs[j]), x["advantage_T"][i][j], x["logp_T"][i][j]
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
def test_loss_equals_plain_loops(name):
    total, count = get_algorithm(name).loss(tokens())
    assert total.item() / count == pytest.approx(plain_loss(name, tokens()), rel=1e-12)


@pytest.mark.parametrize("name", set(ALGORITHMS) - {"cispo"})
def test_gradients_by_finite_differences(name):
    t = tokens()

    def loss(logp):
        total, count = get_algorithm(name).loss(replace(t, logp_T=logp))
        return total / count

    assert torch.autograd.gradcheck(loss, (t.logp_T,), eps=1e-7, atol=1e-7)


def test_cispo_gradient_is_its_closed_form():
    t = tokens()
    total, _ = get_algorithm("cispo").loss(t)
    (grad,) = torch.autograd.grad(total, t.logp_T)
    expected = -(t.logp_T - t.old_T).exp().clamp(max=5.0) * t.advantage_T
    torch.testing.assert_close(grad, expected.detach(), rtol=1e-12, atol=0)


def test_without_old_log_probs_the_ratio_is_one_and_has_the_policy_gradient():
    t = replace(tokens(), old_T=None)
    total, _ = Algorithm().loss(t)
    (grad,) = torch.autograd.grad(total, t.logp_T)
    length = torch.tensor(LENGTHS, dtype=F64)[t.response_T]
    torch.testing.assert_close(grad, -t.advantage_T / length)
    assert total.item() == pytest.approx(-(1.0 - 1.0 + 0.5 - 2.0)), "on-policy it reads minus the mean advantage"


def test_clipping_by_hand():
    one = torch.tensor([math.log(1.5), math.log(0.5), math.log(1.5), math.log(0.5)], dtype=F64)
    t = Tokens(one, torch.arange(4), torch.tensor([1.0, 1.0, -1.0, -1.0], dtype=F64), old_T=torch.zeros(4, dtype=F64))
    ratio = obj.per_token(t)
    assert Clipped(0.2, 0.2)(t, ratio).tolist() == pytest.approx([-1.2, -0.5, 1.5, 0.8])
    assert Clipped(0.2, 0.2).outside(t, ratio).tolist() == [True, False, False, True]
    assert Clipped(0.2, 0.28)(t, ratio).tolist() == pytest.approx([-1.28, -0.5, 1.5, 0.8])
    assert Clipped(0.2, 0.2, dual=1.1)(t, ratio).tolist() == pytest.approx([-1.2, -0.5, 1.1, 0.8])
    assert obj.unclipped(t, ratio).tolist() == pytest.approx([-1.5, -0.5, 1.5, 0.5])
    assert ClippedWeight(0.2).outside(t, ratio).tolist() == [True, False, True, False]


def test_sequence_ratio_by_hand():
    t = Tokens(
        torch.tensor([0.1, 0.3, -0.2], dtype=F64),
        torch.tensor([0, 0, 1]),
        torch.ones(3, dtype=F64),
        torch.zeros(3, dtype=F64),
    )
    assert obj.per_sequence(t).tolist() == pytest.approx([math.exp(0.2)] * 2 + [math.exp(-0.2)])


def test_penalties_by_hand_and_by_finite_differences():
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
    entropy = lists(tokens())["entropy_T"]
    assert total.item() == pytest.approx(plain.item() - 0.01 * sum(sum(r) / len(r) for r in entropy))
    assert count == 4


def test_penalty_over_sampled_and_over_kept_have_their_own_denominators():
    kept = torch.tensor([1.0, 1, 1, 0, 0, 0, 0, 0, 1, 1], dtype=F64)
    t = replace(tokens(), kept_T=kept, lengths=[3, 2], sampled_lengths=[3, 1, 4, 2])
    k = obj.k2(t).detach()
    means = [x.mean().item() for x in torch.split(k, LENGTHS)]
    base = replace(get_algorithm("reinforce"), over="kept")
    plain = base.loss(t)[0].item() / 2
    for over, expected in (("kept", (means[0] + means[3]) / 2), ("sampled", sum(means) / 4)):
        total, count = replace(base, penalties=(Penalty(obj.k2, 0.5, over),)).loss(t)
        assert total.item() / count == pytest.approx(plain + 0.5 * expected)


def test_k1_in_the_loss_is_refused_with_the_reason():
    with pytest.raises(ValueError, match="zero expected gradient"):
        Penalty(obj.k1, 0.1)
    with unchecked(), pytest.raises(ValueError, match="kept"):
        Penalty(obj.k2, 0.1, over="all")


def test_gae_equals_plain_recursion_and_lambda_one_is_reward_minus_value():
    t = tokens()
    x = lists(t)
    for gamma, lam in ((1.0, 1.0), (0.9, 0.8)):
        expected = []
        for value, reward in zip(x["value_T"], x["advantage_T"], strict=True):
            advantage, out = 0.0, []
            for j in reversed(range(len(value))):
                last = j == len(value) - 1
                delta = (reward[j] if last else 0.0) + gamma * (0.0 if last else value[j + 1]) - value[j]
                advantage = delta + gamma * lam * advantage
                out.insert(0, advantage)
            expected += out
        assert Gae(gamma, lam)(t).tolist() == pytest.approx(expected)
    torch.testing.assert_close(Gae(1.0, 1.0)(t), t.advantage_T - t.value_T)
    assert obj.to_tokens(t) is t.advantage_T


def test_kl_in_the_reward():
    t = tokens()
    kl = lists(replace(t, advantage_T=t.old_T - t.ref_T.detach()))["advantage_T"]
    to_go = [sum(row[j:]) for row in kl for j in range(len(row))]
    expected = t.advantage_T - 0.1 * torch.tensor(to_go, dtype=F64)
    torch.testing.assert_close(obj.KlInReward(0.1)(t), expected)
    torch.testing.assert_close(Gae(1.0, 1.0, kl=0.1)(t), expected - t.value_T)
    assert with_axes(get_algorithm("ppo"), {"kl_in_reward": 0.1}).needs >= {"ref", "old", "value"}
    assert with_axes(get_algorithm("reinforce_pp"), {"kl_in_reward": 0.1}).needs >= {"ref", "old"}
    with pytest.raises(ValueError, match="per-token advantages"):
        with_axes(get_algorithm("grpo"), {"kl_in_reward": 0.1})


def test_whitening_over_ranks_equals_whitening_of_all():
    x = torch.tensor(np.random.default_rng(0).normal(3, 2, 20), dtype=F64)
    whole = obj.whiten(x)
    assert whole.mean().item() == pytest.approx(0, abs=1e-12)
    assert whole.std().item() == pytest.approx(1, rel=1e-6)
    halves = [x[:7], x[7:]]
    moments = torch.stack([torch.stack([h.sum(), h.new_tensor(len(h))]) for h in halves]).sum(0)
    squares = ((x - x.mean()) ** 2).sum().reshape(1)
    for half, expected in zip(halves, (whole[:7], whole[7:]), strict=True):
        answers = iter([moments, squares])
        torch.testing.assert_close(obj.whiten(half, lambda m, a=answers: next(a)), expected)


def test_value_loss_by_hand():
    v, old, ret = (torch.tensor([x], dtype=F64) for x in (1.0, 0.0, 2.0))
    assert obj.value_loss(v, old, ret, None).item() == pytest.approx(0.5)
    assert obj.value_loss(v, old, ret, 0.2).item() == pytest.approx(0.5 * 1.8**2)


def test_foreign_engine_weight_multiplies_each_term():
    weight = torch.linspace(0.5, 2.0, 10, dtype=F64)
    t = tokens()
    total, _ = get_algorithm("reinforce").loss(replace(t, weight_T=weight))
    plain = [obj.Clipped(0.2, 0.2)(t, obj.per_token(t)) * weight]
    expected = sum(x.mean() for x in torch.split(plain[0], LENGTHS))
    assert total.item() == pytest.approx(expected.item())


@pytest.mark.parametrize("name", ALGORITHMS)
def test_sums_add_over_micro_batches(name):
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
            pair_S=t.pair_S[start : start + 2],
            lengths=LENGTHS,
            pairs=2,
        )
        part, half_count = algorithm.loss(half)
        assert half_count == count
        parts += part.item()
    assert parts == pytest.approx(whole.item(), rel=1e-12)


def test_compositions_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match="pair aggregate"):
        Algorithm(objective=PairLogistic())
    with pytest.raises(ValueError, match="critic"):
        Algorithm(spread=Gae())
    with pytest.raises(ValueError, match="sampled"):
        replace(get_algorithm("iterative_dpo"), penalties=(Penalty(obj.k2, 0.1, "sampled"),))
    with unchecked(), pytest.raises(ValueError, match="denominator"):
        Algorithm(over="some")


def test_axes_by_name():
    algorithm = with_axes(
        get_algorithm("reinforce_rej"), {"shape": "zero_one", "aggregate": "token_mean", "dual_clip": 3.0}
    )
    assert algorithm.objective == Clipped(0.2, 0.2, 3.0)
    assert algorithm.credit([[1, 0]]).advantage.tolist() == [[1.0, 0.0]], "as released, a wrong answer weighs nothing"
    assert algorithm.aggregate is obj.token_mean
    with pytest.raises(ValueError, match="clips the ratio"):
        with_axes(get_algorithm("raft"), {"clip_low": 0.1})
    with pytest.raises(ValueError, match="one of"):
        with_axes(get_algorithm("raft"), {"shape": "sign"})
    k3 = with_axes(get_algorithm("grpo"), {"kl": "k3", "kl_coefficient": 0.1, "kl_limit": 10.0}).penalties
    assert k3 == (Penalty(obj.K3(10.0), 0.1),)


def test_shapes_are_checked_under_pytest():
    with pytest.raises(TypeError, match=r"logp_T|advantage_T"):
        Tokens(torch.zeros(3), torch.zeros(3, dtype=torch.long), torch.zeros(2))
    with pytest.raises(TypeError):
        obj.whiten(torch.zeros(2, 2))
