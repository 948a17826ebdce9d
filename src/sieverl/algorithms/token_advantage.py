"""Token-level advantages from the advantage of a response: the same for every token, GAE, a KL in the reward.

Legend: T kept tokens, packed; S kept sequences.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sieverl.algorithms.needs import ratio_free
from sieverl.algorithms.shapes import BoolT, FloatT
from sieverl.algorithms.tokens import Tokens

# --- spread ---------------------------------------------------------------------------------------


@ratio_free
def to_tokens(tokens: Tokens) -> FloatT:
    """Every token gets its response's advantage, [T]."""
    return tokens.advantage_T


def _backward_sum(tokens: Tokens, value_T: FloatT, decay: float) -> FloatT:
    """x_t + decay * x_{t+1} + ... within each sequence, [T]."""
    length_S = tokens.length_S()
    width = int(length_S.max()) if len(length_S) else 0
    start_S = torch.cumsum(length_S, 0) - length_S
    column_T = torch.arange(len(value_T), device=value_T.device) - start_S[tokens.response_T]
    grid = torch.zeros(len(length_S), width + 1, dtype=value_T.dtype, device=value_T.device)
    grid[tokens.response_T, column_T] = value_T
    for column in range(width - 1, -1, -1):
        grid[:, column] += decay * grid[:, column + 1]
    return grid[tokens.response_T, column_T]


def _is_last_T(tokens: Tokens) -> BoolT:
    last_T = torch.ones_like(tokens.response_T, dtype=torch.bool)
    last_T[:-1] = tokens.response_T[1:] != tokens.response_T[:-1]
    return last_T


@dataclass(frozen=True)
class Gae:
    """Generalised advantage estimation: terminal reward, value after the end 0, [T] (arXiv 1506.02438).

    `kl` puts -kl * (log pi_old - log ref) into the reward of each token (k1 in the reward).
    """

    gamma: float = 1.0
    lam: float = 1.0
    kl: float = 0.0
    ratio_free = True  # it asks for old log-probs itself where it needs them

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"value", "old", "ref"} if self.kl else {"value"})

    def __call__(self, tokens: Tokens) -> FloatT:
        assert tokens.value_T is not None
        last_T = _is_last_T(tokens)
        next_T = torch.where(last_T, torch.zeros_like(tokens.value_T), tokens.value_T.roll(-1))
        reward_T = torch.where(last_T, tokens.advantage_T, torch.zeros_like(tokens.advantage_T))
        if self.kl:
            assert tokens.old_T is not None
            assert tokens.ref_T is not None
            reward_T = reward_T - self.kl * (tokens.old_T - tokens.ref_T)
        return _backward_sum(tokens, reward_T + self.gamma * next_T - tokens.value_T, self.gamma * self.lam)


@dataclass(frozen=True)
class KlInReward:
    """advantage - kl * sum over the tokens from here on of (log pi_old - log ref), [T]: k1 in the reward."""

    kl: float = 0.001
    needs = frozenset({"old", "ref"})
    ratio_free = True

    def __call__(self, tokens: Tokens) -> FloatT:
        assert tokens.old_T is not None
        assert tokens.ref_T is not None
        return tokens.advantage_T - self.kl * _backward_sum(tokens, tokens.old_T - tokens.ref_T, 1.0)


def whiten(value_T: FloatT, reduce: Callable[[Tensor], Tensor] = lambda moments: moments) -> FloatT:
    """(x - mean) / (std + 1e-8), n-1 std, over all tokens of all ranks; `reduce` sums a small tensor over the ranks."""
    first = reduce(torch.stack([value_T.sum(), value_T.new_tensor(float(len(value_T)))]))
    mean = first[0] / first[1].clamp(min=1)
    squares = reduce(((value_T - mean) ** 2).sum().reshape(1))[0]
    return (value_T - mean) / ((squares / (first[1] - 1).clamp(min=1)).sqrt() + 1e-8)
