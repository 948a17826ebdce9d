"""Advantages by token: GAE, the KL in the reward, whitening."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from ten_tokens import F64, given, lists, split, tokens

from sieverl.algorithms import get_algorithm
from sieverl.algorithms.axes import with_axes
from sieverl.algorithms.token_advantage import Gae, KlInReward, to_tokens, whiten
from sieverl.algorithms.tokens import Tokens


def test_gae_equals_plain_recursion_and_lambda_one_is_reward_minus_value() -> None:
    t = tokens()
    x = lists(t)
    for gamma, lam in ((1.0, 1.0), (0.9, 0.8)):
        expected: list[float] = []
        for value, reward in zip(x.value, x.advantage, strict=True):
            advantage, out = 0.0, list[float]()
            for j in reversed(range(len(value))):
                last = j == len(value) - 1
                delta = (reward[j] if last else 0.0) + gamma * (0.0 if last else value[j + 1]) - value[j]
                advantage = delta + gamma * lam * advantage
                out.insert(0, advantage)
            expected += out
        assert Gae(gamma, lam)(t).tolist() == pytest.approx(expected)
    torch.testing.assert_close(Gae(1.0, 1.0)(t), t.advantage_T - given(t.value_T))
    assert to_tokens(t) is t.advantage_T


def test_M8_reinforce_pp_subtracts_the_kl_before_it_normalises() -> None:
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


def test_kl_in_the_reward() -> None:
    t = tokens()
    kl = split(given(t.old_T) - given(t.ref_T))
    to_go = [sum(row[j:]) for row in kl for j in range(len(row))]
    expected = t.advantage_T - 0.1 * torch.tensor(to_go, dtype=F64)
    torch.testing.assert_close(KlInReward(0.1)(t), expected)
    torch.testing.assert_close(Gae(1.0, 1.0, kl=0.1)(t), expected - given(t.value_T))
    assert with_axes(get_algorithm("ppo"), {"kl_in_reward": 0.1}).needs >= {"ref", "old", "value"}
    assert with_axes(get_algorithm("reinforce_pp"), {"kl_in_reward": 0.1}).needs >= {"ref", "old"}
    with pytest.raises(ValueError, match="per-token advantages"):
        with_axes(get_algorithm("grpo"), {"kl_in_reward": 0.1})


def test_whitening_over_ranks_equals_whitening_of_all() -> None:
    x = torch.tensor(np.random.default_rng(0).normal(3, 2, 20), dtype=F64)
    whole = whiten(x)
    assert whole.mean().item() == pytest.approx(0, abs=1e-12)
    assert whole.std().item() == pytest.approx(1, rel=1e-6)
    halves = [x[:7], x[7:]]
    moments = torch.stack([torch.stack([h.sum(), h.new_tensor(len(h))]) for h in halves]).sum(0)
    squares = ((x - x.mean()) ** 2).sum().reshape(1)
    for half, expected in zip(halves, (whole[:7], whole[7:]), strict=True):
        sums = iter([moments, squares])
        torch.testing.assert_close(whiten(half, partial(lambda answers, mine: next(answers), sums)), expected)


def test_whitening_of_one_value_of_equal_ones_and_of_none() -> None:
    assert whiten(torch.tensor([3.0], dtype=F64)).tolist() == [0.0]
    assert whiten(torch.tensor([3.0, 3.0], dtype=F64)).tolist() == [0.0, 0.0]
    assert whiten(torch.zeros(0, dtype=F64)).tolist() == []
    # 1e-8 apart: std (n - 1) is sqrt(2) / 2 * 1e-8, to which 1e-8 is added
    near = whiten(torch.tensor([0.0, 1e-8], dtype=F64)).tolist()
    assert near == pytest.approx([-0.5 / (1 + 0.5**0.5), 0.5 / (1 + 0.5**0.5)])


def test_no_tokens_at_all() -> None:
    none = torch.zeros(0, dtype=F64)
    t = Tokens(none, torch.zeros(0, dtype=torch.long), none, old_T=none, ref_T=none, value_T=none)
    assert t.length_S().tolist() == []
    for function in (Gae(0.9, 0.8, kl=0.1), KlInReward(0.1), to_tokens):
        assert function(t).tolist() == []
