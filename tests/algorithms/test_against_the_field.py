"""Our numbers against those of TRL and verl on the same inputs; where they differ, the difference itself is asserted.

The fixtures come from tools/make_reference_fixtures.py, which runs in environments of their own; no library is needed
here. A gradient is that of the loss by each token's log-prob, so it also compares every weight and every clip.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from torch import Tensor

from sieverl.algorithms import get_algorithm
from sieverl.algorithms import objective as obj
from sieverl.algorithms.algorithm import Algorithm
from sieverl.algorithms.credit import groups
from sieverl.algorithms.objective import Aggregate, Clipped, Penalty
from sieverl.algorithms.token_advantage import Gae, whiten
from sieverl.algorithms.tokens import Denominator, Tokens
from sieverl.errors import UsageError

FILES = {name: json.loads((ROOT / "tests" / "fixtures" / f"{name}.json").read_text()) for name in ("trl", "verl")}
TRL, VERL = (FILES[name]["results"] for name in ("trl", "verl"))
X = FILES["trl"]["inputs"]
LENGTH_S, GROUP_R, REWARD_R = (np.array(X[name]) for name in ("lengths", "groups", "rewards"))
RESPONSE_T = torch.repeat_interleave(torch.arange(len(LENGTH_S)), torch.tensor(LENGTH_S))
HIGHER = Clipped(0.2, 0.28)
DUAL = Clipped(0.2, 0.28, dual=3.0)


def packed(name: str) -> Tensor:
    return torch.tensor(X[name], dtype=torch.float64)


def tokens(**changes: Any) -> Tokens:
    given = {"logp_T": packed("logp").requires_grad_(), "response_T": RESPONSE_T, "advantage_T": packed("advantage")}
    given |= {"old_T": packed("old"), "ref_T": packed("ref"), "value_T": packed("value")}
    lengths = LENGTH_S.tolist()
    pairs = len(set(changes["pair_S"].tolist())) if "pair_S" in changes else 0
    counted = Denominator(lengths, lengths, pairs, X["max_tokens"])
    return Tokens(**{**given, "denominator": counted, **changes})


def equal(ours: Any, theirs: Any, relative: float = 1e-9) -> None:
    as64 = (torch.as_tensor(np.asarray(x.detach() if isinstance(x, Tensor) else x), dtype=torch.float64)
            for x in (ours, theirs))  # fmt: skip
    torch.testing.assert_close(*as64, rtol=relative, atol=1e-12)


def same(algorithm: Algorithm, theirs: dict[str, Any], t: Tokens | None = None, relative: float = 1e-9) -> None:
    """The loss of one mini-batch and its gradient."""
    t = t or tokens()
    total, count = algorithm.loss(t)
    loss = total / count
    (gradient,) = torch.autograd.grad(loss, t.logp_T)
    equal(loss, theirs["loss"], relative)
    equal(gradient, theirs["gradient"], relative)


def token_loss(algorithm: Algorithm) -> Tensor:
    t = tokens()
    return algorithm.objective(t, algorithm.ratio(t))


def credit(name: str, **options: Any) -> Any:
    return get_algorithm(name).credit(REWARD_R, prompt=GROUP_R, **options).advantage


def test_the_inputs_are_the_same_and_reach_every_branch() -> None:
    assert FILES["trl"]["inputs"] == FILES["verl"]["inputs"]
    ratio, advantage = (packed("logp") - packed("old")).exp(), packed("advantage")
    sequence = obj.per_sequence(tokens())
    for sign in (advantage > 0, advantage < 0):
        for region in (ratio < 0.8, (ratio > 0.8) & (ratio < 1.28), (ratio > 1.28) & (ratio < 3), ratio > 3, ratio > 5):
            assert (sign & region).any()
        assert (sign & (sequence > 0.8) & (sequence < 1.28)).any()
    assert ((advantage > 0) & (sequence > 1.28)).any()
    assert ((advantage < 0) & (sequence < 0.8)).any()
    assert FILES["trl"]["versions"]["trl"] == "1.16.0"
    assert FILES["verl"]["versions"]["verl"] == "0.9.1"


# --- TRL --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "algorithm"),
    [
        ("grpo", replace(get_algorithm("grpo"), objective=HIGHER)),
        ("bnpo", replace(get_algorithm("grpo"), objective=HIGHER, aggregate=obj.token_mean)),
        ("dr_grpo", replace(get_algorithm("dr_grpo"), objective=HIGHER)),
        ("dapo", get_algorithm("dapo")),
        ("cispo", get_algorithm("cispo")),
        ("gspo", replace(get_algorithm("gspo"), objective=HIGHER)),
        ("k3", replace(get_algorithm("grpo"), objective=HIGHER, penalties=(Penalty(obj.k3, 0.04),))),
    ],
)
def test_losses_are_those_of_trl(name: str, algorithm: Algorithm) -> None:
    same(algorithm, TRL[f"loss/{name}"])


def test_k3_of_trl_is_by_default_times_the_importance_ratio() -> None:
    """`use_bias_correction_kl` changes the gradient on-policy too, there to that of k2; our k3 is the plain one."""

    def corrected(t: Tokens) -> Tensor:
        return obj.k3(t) * obj.per_token(t)

    algorithm = replace(get_algorithm("grpo"), objective=HIGHER)
    same(replace(algorithm, penalties=(Penalty(corrected, 0.04),)), TRL["loss/k3_corrected"])
    assert TRL["loss/k3_corrected"]["loss"] != pytest.approx(TRL["loss/k3"]["loss"], rel=1e-3)


def test_on_policy_the_corrected_k3_of_trl_has_the_gradient_of_k2() -> None:
    t = tokens(old_T=None)
    k2, k3 = (torch.autograd.grad(x.sum(), t.logp_T)[0] for x in (obj.k2(t), obj.k3(t) * obj.per_token(t)))
    equal(k2, k3)


@pytest.mark.parametrize("name", ["dapo", "cispo"])
def test_token_losses_are_those_of_trl(name: str) -> None:
    equal(token_loss(get_algorithm(name)), TRL[f"token_loss/{name}"])


def test_advantages_of_trl_have_a_larger_epsilon() -> None:
    """TRL computes in float32 and adds 1e-4 to the std, we 1e-6 (as the paper's release and verl do)."""
    group = groups(GROUP_R, REWARD_R)
    centred = credit("dr_grpo")
    equal(centred, TRL["advantage/none"], 1e-6)
    equal(credit("grpo") * (group.std + 1e-6) / (group.std + 1e-4), TRL["advantage/group"], 1e-6)
    assert np.abs(credit("grpo") / np.array(TRL["advantage/group"]) - 1).max() > 1e-4, "the epsilon shows"
    whole = groups(np.zeros_like(GROUP_R), REWARD_R)
    equal(centred / (whole.std + 1e-4), TRL["advantage/batch"], 1e-6)
    equal((REWARD_R - whole.mean) / (whole.std + 1e-6), credit("reinforce_pp"))  # ours also centres over the batch


def test_rloo_of_trl_has_the_same_advantage_and_on_policy_the_same_direction() -> None:
    """TRL clips one ratio a sequence and divides by sequences; we take the plain gradient over max_tokens as well."""
    equal(credit("rloo"), TRL["advantage/rloo"], 1e-6)
    t = tokens(old_T=None)
    total, count = get_algorithm("rloo").loss(t)
    (gradient,) = torch.autograd.grad(total / count, t.logp_T)
    equal(gradient * X["max_tokens"], TRL["loss/rloo_on_policy"]["gradient"])
    first = np.cumsum(LENGTH_S) - LENGTH_S
    equal(-packed("advantage")[first].mean(), TRL["loss/rloo_on_policy"]["loss"])  # a ratio of 1 hides the log-probs


def test_dpo_is_that_of_trl() -> None:
    sign = torch.tensor([1.0, 1.0, 1.0, -1.0, -1.0, -1.0], dtype=torch.float64)
    t = tokens(advantage_T=sign[RESPONSE_T], pair_S=torch.tensor([0, 1, 2, 0, 1, 2]))
    same(get_algorithm("iterative_dpo"), TRL["loss/dpo"], t)


# --- verl -------------------------------------------------------------------------------------------


def test_advantages_are_those_of_verl() -> None:
    equal(credit("grpo"), VERL["advantage/grpo"])
    equal(credit("dr_grpo"), VERL["advantage/dr_grpo"])
    equal(credit("rloo"), VERL["advantage/rloo"])
    equal(credit("remax", greedy=X["greedy"]), VERL["advantage/remax"])


def test_a_group_of_one_gets_its_raw_reward_in_verl_and_is_refused_here() -> None:
    assert VERL["advantage/grpo_alone"][-2] == pytest.approx(-VERL["advantage/grpo_alone"][-3])
    equal(VERL["advantage/grpo_alone"][-1], REWARD_R[-1] / (1 + 1e-6))
    with pytest.raises(UsageError, match="one response"):
        get_algorithm("grpo").credit(REWARD_R, prompt=[0, 0, 0, 1, 1, 2])


def test_reinforce_pp_of_verl_whitens_per_token() -> None:
    """There a long response weighs more in mean and std; here each response counts once (see the algorithm's line)."""
    reward_T = torch.tensor(REWARD_R)[RESPONSE_T]
    equal(whiten(reward_T), VERL["advantage/reinforce_plus_plus"], 1e-7)
    first = np.cumsum(LENGTH_S) - LENGTH_S
    theirs = np.array(VERL["advantage/reinforce_plus_plus"])[first]
    assert np.abs(credit("reinforce_pp") - theirs).max() > 0.05


@pytest.mark.parametrize(
    ("name", "spread"), [("gae", Gae(0.95, 0.9)), ("gae_one", Gae(1.0, 1.0)), ("gae_kl", Gae(1.0, 0.9, kl=0.1))]
)
def test_gae_is_that_of_verl(name: str, spread: Gae) -> None:
    advantage_T = spread(tokens(advantage_T=torch.tensor(REWARD_R)[RESPONSE_T]))
    equal(advantage_T + packed("value"), VERL[f"advantage/{name}"]["return"])
    whitened = torch.tensor(VERL[f"advantage/{name}"]["whitened"], dtype=torch.float64)
    assert (whiten(advantage_T) - whitened).abs().max() < 1e-7
    size = len(advantage_T)  # their 1e-8 is added to the count and to the variance, ours to the std
    mean = advantage_T.sum() / (size + 1e-8)
    variance = ((advantage_T - mean) ** 2).sum() / (size + 1e-8) * size / (size - 1)
    equal((advantage_T - mean) * torch.rsqrt(variance + 1e-8), whitened, 1e-11)


def counting(max_tokens: int) -> Tokens:
    lengths = LENGTH_S.tolist()
    return tokens(denominator=Denominator(lengths, lengths, 0, max_tokens))


def test_dual_clip_and_aggregates_are_those_of_verl() -> None:
    algorithm = replace(get_algorithm("grpo"), objective=DUAL)
    equal(token_loss(algorithm), VERL["token_loss/vanilla"])
    same(replace(algorithm, aggregate=obj.token_mean), VERL["loss/token-mean"])
    constant = replace(algorithm, aggregate=obj.constant_length)
    same(constant, VERL["loss/seq-mean-token-sum"], counting(1))
    same(constant, VERL["loss/seq-mean-token-sum-norm"], counting(int(LENGTH_S.max())))


def test_sequence_mean_of_verl_adds_an_epsilon_to_the_length() -> None:
    algorithm = replace(get_algorithm("grpo"), objective=DUAL)
    same(algorithm, VERL["loss/seq-mean-token-mean"], relative=1e-7)

    def total(t: Tokens, loss_T: Tensor) -> Tensor:
        return (loss_T / (t.length_S().double() + 1e-8)[t.response_T]).sum()

    theirs = Aggregate("theirs", total, obj.sequence_mean.count)
    same(replace(algorithm, aggregate=theirs), VERL["loss/seq-mean-token-mean"], relative=1e-12)


def test_verl_forgets_a_masked_response_in_the_denominator_unless_told_the_batch_size() -> None:
    """A mean over unmasked responses grows when one is dropped; over all sampled ones dropping equals masking."""
    kept = RESPONSE_T != 1
    cut: dict[str, Any] = {"logp_T": packed("logp")[kept].requires_grad_(), "advantage_T": packed("advantage")[kept]}
    cut |= {"old_T": packed("old")[kept], "response_T": RESPONSE_T[kept] - (RESPONSE_T[kept] > 1).long()}
    cut |= {"ref_T": None, "value_T": None}
    algorithm = replace(get_algorithm("reinforce_rej"), objective=DUAL)
    left = np.delete(LENGTH_S, 1).tolist()
    for lengths, name in ((LENGTH_S.tolist(), "loss/dropped_global"), (left, "loss/dropped")):
        theirs = VERL[name]
        gradient = torch.tensor(theirs["gradient"])
        assert not gradient[~kept].any()
        theirs = {"loss": theirs["loss"], "gradient": gradient[kept]}
        same(algorithm, theirs, tokens(**cut, denominator=Denominator(lengths, lengths, 0, 1)), relative=1e-7)
    assert VERL["loss/dropped"]["loss"] == pytest.approx(VERL["loss/dropped_global"]["loss"] * 6 / 5)


def test_gspo_and_cispo_are_those_of_verl() -> None:
    same(replace(get_algorithm("gspo"), objective=HIGHER), VERL["loss/gspo"], relative=1e-7)  # its sequence mean
    same(get_algorithm("cispo"), VERL["loss/cispo"])


@pytest.mark.parametrize(
    ("name", "penalty"),
    [("k1", obj.k1), ("kl", obj.k1), ("k2", obj.k2), ("mse", obj.k2), *((n, obj.K3(10)) for n in ("k3", "low_var_kl"))],
)
def test_kl_penalties_are_those_of_verl(name: str, penalty: Callable[[Tokens], Tensor]) -> None:
    t = tokens()
    value_T = penalty(t)
    (gradient,) = torch.autograd.grad(value_T.sum(), t.logp_T)
    equal(value_T, VERL[f"kl/{name}"]["value"])
    equal(gradient, VERL[f"kl/{name}"]["gradient"])


def test_k3_of_verl_is_clamped_at_ten_and_ours_only_when_asked() -> None:
    clamped = np.array(VERL["kl/k3"]["value"]) == 10
    ours = obj.k3(tokens()).detach().numpy()
    assert clamped.tolist() == (ours > 10).tolist()
    assert clamped.sum() == 1
    assert not np.array(VERL["kl/k3"]["gradient"])[clamped].any(), "the clamp takes the gradient away where it is due"
    equal(ours[~clamped], np.array(VERL["kl/k3"]["value"])[~clamped])


def test_the_value_loss_is_that_of_verl() -> None:
    loss_T = obj.value_loss(packed("value"), packed("old_value"), packed("target"), clip=0.2)
    equal(loss_T.mean(), VERL["loss/value"])
