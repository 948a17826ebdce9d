"""Ratios, objectives, penalties, spreads and aggregates: hand-worked numbers, plain NumPy loops, finite differences."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from toys import unchecked

from sieverl.algorithms import ALGORITHMS, get_algorithm
from sieverl.algorithms import objective as obj
from sieverl.algorithms.algorithm import Algorithm
from sieverl.algorithms.axes import inapplicable, with_axes
from sieverl.algorithms.credit import OverlongShaped
from sieverl.algorithms.needs import needs
from sieverl.algorithms.objective import Clipped, ClippedWeight, PairLogistic, Penalty
from sieverl.algorithms.token_advantage import Gae, KlInReward, to_tokens, whiten
from sieverl.algorithms.tokens import Denominator, Tokens
from sieverl.errors import UsageError

LENGTHS = [3, 1, 4, 2]
F64 = torch.float64


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
        "denominator": Denominator(LENGTHS, LENGTHS, pairs=2, max_tokens=8),
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
    t = replace(tokens(), kept_T=kept, denominator=Denominator([3, 2], [3, 1, 4, 2], pairs=0, max_tokens=8))
    k = obj.k2(t).detach()
    means = [x.mean().item() for x in torch.split(k, LENGTHS)]
    base = replace(get_algorithm("reinforce"), denominator="kept")
    plain = base.loss(t)[0].item() / 2
    for over, expected in (("kept", (means[0] + means[3]) / 2), ("sampled", sum(means) / 4)):
        total, count = replace(base, penalties=(Penalty(obj.k2, 0.5, over),)).loss(t)
        assert total.item() / count == pytest.approx(plain + 0.5 * expected)


def test_k1_in_the_loss_is_refused_with_the_reason():
    with pytest.raises(ValueError, match="zero expected gradient"):
        Penalty(obj.k1, 0.1)
    with unchecked(), pytest.raises(ValueError, match="kept"):
        Penalty(obj.k2, 0.1, denominator="all")


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
    assert to_tokens(t) is t.advantage_T


def test_M8_reinforce_pp_subtracts_the_kl_before_it_normalises():
    """arXiv 2501.03262, eq. 8 to 10: A_t = r - beta * sum of KL from t on; then (A - mean) / std over all tokens."""
    algorithm = with_axes(get_algorithm("reinforce_pp"), {"kl_in_reward": 0.5})
    advantage = algorithm.credit([[1, 0]]).advantage[0]
    assert advantage.tolist() == [1.0, -1.0], "the bare reward: normalising comes last"
    t = Tokens(
        torch.zeros(3, dtype=F64),
        torch.tensor([0, 0, 1]),
        torch.tensor(advantage[[0, 0, 1]], dtype=F64),
        old_T=torch.tensor([0.4, 0.2, 0.0], dtype=F64),
        ref_T=torch.zeros(3, dtype=F64),
    )
    raw = algorithm.token_advantage(t)
    assert raw.tolist() == pytest.approx([1 - 0.5 * 0.6, 1 - 0.5 * 0.2, -1.0])  # 0.7, 0.9, -1
    assert algorithm.whiten
    mean, std = 0.2, ((0.5**2 + 0.7**2 + 1.2**2) / 2) ** 0.5
    assert whiten(raw).tolist() == pytest.approx([0.5 / std, 0.7 / std, -1.2 / std], rel=1e-7)
    assert mean == pytest.approx(raw.mean().item())


def test_M12_nothing_selected_and_a_penalty_over_all_sampled():
    """The objective has nothing to divide by; the penalty has its own denominator and is not lost."""
    t = replace(
        tokens(), kept_T=torch.zeros(10, dtype=F64), denominator=Denominator([], LENGTHS, pairs=0, max_tokens=8)
    )
    algorithm = replace(get_algorithm("raft"), penalties=(Penalty(obj.k2, 0.5, "sampled"),))
    total, count = algorithm.loss(t)
    expected = 0.5 * sum(x.mean().item() for x in torch.split(obj.k2(t).detach(), LENGTHS)) / 4
    assert total.item() / count == pytest.approx(expected)


def test_M12_whiten_without_a_spread_is_refused():
    with pytest.raises(UsageError, match="give a token_advantage"):
        Algorithm(whiten=True)


def test_M12_a_shape_that_a_pair_algorithm_would_ignore_is_refused():
    with pytest.raises(UsageError, match="would be ignored"):
        replace(get_algorithm("iterative_dpo"), shape=OverlongShaped())
    with pytest.raises(UsageError, match=r"axes\.shape; leave"):
        with_axes(get_algorithm("iterative_dpo"), {"shape": "overlong"})
    assert with_axes(get_algorithm("iterative_dpo"), {"shape": "signed"}) == get_algorithm("iterative_dpo")


def test_M12_what_is_not_known_to_do_without_the_ratio_needs_it():
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


def test_M13_dual_clip_counts_as_clipped():
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
def test_M13_the_clamped_k3_has_no_gradient_far_away(dtype, limit, log_ratio):
    logp = torch.tensor([-log_ratio], dtype=dtype, requires_grad=True)
    t = Tokens(logp, torch.tensor([0]), torch.zeros(1, dtype=dtype), ref_T=torch.zeros(1, dtype=dtype))
    value = obj.K3(limit)(t)
    (grad,) = torch.autograd.grad(value.sum(), logp)
    if limit > 100 and log_ratio == -100:  # exp(-100) + 100 - 1 is within that limit
        assert (value.item(), grad.item()) == (pytest.approx(99), pytest.approx(1))
    else:
        assert (value.item(), grad.item()) == (pytest.approx(limit), 0.0)


@pytest.mark.parametrize("name", ["raft", "rloo", "remax", "cispo"])
def test_M15_clips_of_an_objective_without_any_are_left_out(name):
    axes = {"clip_low": 0.1, "dual_clip": 3.0, "aggregate": "token_mean"}
    algorithm = get_algorithm(name)
    assert inapplicable(algorithm, axes) == ["clip_low", "dual_clip"]
    assert with_axes(algorithm, axes) == replace(algorithm, aggregate=obj.token_mean)


def test_M15_a_pair_algorithm_names_all_axes_it_cannot_take():
    axes = {"shape": "zero_one", "aggregate": "token_mean", "kl": "k3", "denominator": "kept", "dual_clip": 3.0}
    axes |= {"penalty_denominator": "sampled", "kl_in_reward": 0.1, "entropy_coefficient": 0.1}
    named = "axes.shape, axes.aggregate, axes.denominator, axes.dual_clip, "
    named += "axes.penalty_denominator, axes.kl_in_reward; leave"
    with pytest.raises(UsageError, match=named):
        with_axes(get_algorithm("iterative_dpo"), axes)


def test_kl_in_the_reward():
    t = tokens()
    kl = lists(replace(t, advantage_T=t.old_T - t.ref_T.detach()))["advantage_T"]
    to_go = [sum(row[j:]) for row in kl for j in range(len(row))]
    expected = t.advantage_T - 0.1 * torch.tensor(to_go, dtype=F64)
    torch.testing.assert_close(KlInReward(0.1)(t), expected)
    torch.testing.assert_close(Gae(1.0, 1.0, kl=0.1)(t), expected - t.value_T)
    assert with_axes(get_algorithm("ppo"), {"kl_in_reward": 0.1}).needs >= {"ref", "old", "value"}
    assert with_axes(get_algorithm("reinforce_pp"), {"kl_in_reward": 0.1}).needs >= {"ref", "old"}
    with pytest.raises(ValueError, match="per-token advantages"):
        with_axes(get_algorithm("grpo"), {"kl_in_reward": 0.1})


def test_whitening_over_ranks_equals_whitening_of_all():
    x = torch.tensor(np.random.default_rng(0).normal(3, 2, 20), dtype=F64)
    whole = whiten(x)
    assert whole.mean().item() == pytest.approx(0, abs=1e-12)
    assert whole.std().item() == pytest.approx(1, rel=1e-6)
    halves = [x[:7], x[7:]]
    moments = torch.stack([torch.stack([h.sum(), h.new_tensor(len(h))]) for h in halves]).sum(0)
    squares = ((x - x.mean()) ** 2).sum().reshape(1)
    for half, expected in zip(halves, (whole[:7], whole[7:]), strict=True):
        answers = iter([moments, squares])
        torch.testing.assert_close(whiten(half, lambda m, a=answers: next(a)), expected)


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
            denominator=Denominator(LENGTHS, LENGTHS, pairs=2, max_tokens=8),
        )
        part, half_count = algorithm.loss(half)
        assert half_count == count
        parts += part.item()
    assert parts == pytest.approx(whole.item(), rel=1e-12)


def test_compositions_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match="pair aggregate"):
        Algorithm(objective=PairLogistic())
    with pytest.raises(ValueError, match="critic"):
        Algorithm(token_advantage=Gae())
    with pytest.raises(ValueError, match="sampled"):
        replace(get_algorithm("iterative_dpo"), penalties=(Penalty(obj.k2, 0.1, "sampled"),))
    with unchecked(), pytest.raises(ValueError, match="denominator"):
        Algorithm(denominator="some")


def test_axes_by_name():
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


def test_shapes_are_checked_under_pytest():
    with pytest.raises(TypeError, match=r"logp_T|advantage_T"):
        Tokens(torch.zeros(3), torch.zeros(3, dtype=torch.long), torch.zeros(2))
    with pytest.raises(TypeError):
        whiten(torch.zeros(2, 2))


def test_M19_what_the_documentation_says_of_penalties_and_of_the_engines_weight():
    """A quarter of the responses is kept: over = sampled, the mean of the kept penalty counts by a quarter."""
    kept = torch.tensor([1.0] * 3 + [0.0] * 7, dtype=F64)
    mean = obj.k2(tokens()).detach()[:3].mean().item()
    bare = Algorithm(objective=lambda t, ratio_T: 0.0 * t.logp_T, penalties=(Penalty(obj.k2, 0.5, "kept"),))
    for over, lengths, weight in (("sampled", LENGTHS, 0.5 / 4), ("kept", [3], 0.5)):
        t = replace(tokens(), kept_T=kept, denominator=Denominator(lengths, LENGTHS, pairs=0, max_tokens=8))
        for engine in (None, torch.full((10,), 2.0, dtype=F64)):
            total, count = replace(bare, denominator=over).loss(replace(t, weight_T=engine))
            assert total.item() / count == pytest.approx(weight * mean), "the engine's weight multiplies no penalty"
    dpo, t = get_algorithm("iterative_dpo"), tokens()
    assert dpo.loss(replace(t, weight_T=torch.full((10,), 2.0, dtype=F64)))[0].item() == dpo.loss(t)[0].item()


def test_S7_a_name_where_a_function_belongs_is_refused_by_the_constructor():
    with unchecked(), pytest.raises(UsageError, match="select is 'correct'; pass the function itself"):
        Algorithm(select="correct")
