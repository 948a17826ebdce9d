"""From credit to a loss: ratios, objectives, penalties and aggregates. Pure PyTorch.

Legend: T kept tokens, packed; S kept sequences; P pairs; R all sampled responses of the mini-batch, all ranks.
Each function is one choice on the page `named.py`:

- ratio      (Tokens) -> T           how far the policy has moved since the tokens were sampled
- objective  (Tokens, ratio_T) -> T  the loss of each token (or of each pair)
- penalty    (Tokens) -> T           what is added to it
- aggregate  total over a micro-batch; count known before any forward
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sieverl.algorithms.needs import needs, ratio_free
from sieverl.algorithms.shapes import BoolT, FloatT, FloatTorP, Scalar
from sieverl.algorithms.tokens import Denominator, Tokens
from sieverl.errors import UsageError

# --- ratio ----------------------------------------------------------------------------------------


def per_token(tokens: Tokens) -> FloatT:
    """s_t = pi(a_t) / pi_old(a_t), [T]."""
    return tokens.log_ratio_T().exp()


def per_sequence(tokens: Tokens) -> FloatT:
    """s = exp(mean_t log ratio) of the sequence, the same for each of its tokens, [T] (GSPO, arXiv 2507.18071)."""
    length_S = tokens.length_S()
    log_ratio_T = tokens.log_ratio_T()
    total_S = torch.zeros(len(length_S), dtype=log_ratio_T.dtype, device=log_ratio_T.device)
    total_S = total_S.index_add(0, tokens.response_T, log_ratio_T)
    return (total_S / length_S.clamp(min=1)).exp()[tokens.response_T]


# --- objective ------------------------------------------------------------------------------------


@ratio_free
def log_prob(tokens: Tokens, ratio_T: FloatT) -> FloatT:
    """-A log pi: the plain policy gradient, no ratio, [T] (RAFT, eq. 1)."""
    return -tokens.advantage_T * tokens.logp_T


@dataclass(frozen=True)
class Clipped:
    """-min(s A, clip(s, 1 - low, 1 + high) A), [T] (PPO, arXiv 1707.06347; eq. 4 to 6 of arXiv 2504.11343).

    `dual` bounds the loss of a negative advantage at -dual * A (arXiv 1912.09729). low = high = inf leaves the ratio
    unclipped.
    """

    low: float = 0.2
    high: float = 0.2
    dual: float | None = None
    needs = frozenset({"ratio"})

    def __call__(self, tokens: Tokens, ratio_T: FloatT) -> FloatT:
        advantage_T = tokens.advantage_T
        clipped_T = ratio_T.clamp(1 - self.low, 1 + self.high)
        gain_T = torch.minimum(ratio_T * advantage_T, clipped_T * advantage_T)
        if self.dual is not None:
            gain_T = torch.where(advantage_T < 0, torch.maximum(gain_T, self.dual * advantage_T), gain_T)
        return -gain_T

    def outside(self, tokens: Tokens, ratio_T: FloatT) -> BoolT:
        """Where a clip takes the gradient away, bool [T]."""
        up = (tokens.advantage_T > 0) & (ratio_T > 1 + self.high)
        beyond_T = ratio_T < 1 - self.low if self.dual is None else (ratio_T < 1 - self.low) | (ratio_T > self.dual)
        return up | ((tokens.advantage_T < 0) & beyond_T)


unclipped = Clipped(math.inf, math.inf)


@dataclass(frozen=True)
class ClippedWeight:
    """-stop_gradient(min(s, 1 + high)) A log pi: clip the weight, keep the gradient, [T] (CISPO, arXiv 2506.13585)."""

    high: float = 4.0
    needs = frozenset({"ratio"})

    def __call__(self, tokens: Tokens, ratio_T: FloatT) -> FloatT:
        return -ratio_T.detach().clamp(max=1 + self.high) * tokens.advantage_T * tokens.logp_T

    def outside(self, tokens: Tokens, ratio_T: FloatT) -> BoolT:
        """Where the weight is clipped (the gradient stays), bool [T]."""
        return ratio_T > 1 + self.high


@dataclass(frozen=True)
class PairLogistic:
    """-log sigmoid(beta * sum over the pair of A_i sum_t log(pi / pi_ref)), one loss a pair, [P].

    DPO (arXiv 2305.18290) with A = +1 for the best and -1 for the worst response.
    """

    beta: float = 0.1
    needs = frozenset({"ref", "pair"})
    ratio_free = True

    def __call__(self, tokens: Tokens, ratio_T: FloatT) -> FloatTorP:
        assert tokens.ref_T is not None
        assert tokens.pair_S is not None
        _, pair_S = torch.unique(tokens.pair_S, return_inverse=True)
        margin_T = tokens.advantage_T * (tokens.logp_T - tokens.ref_T)
        size = int(pair_S.max()) + 1 if len(pair_S) else 0
        margin_P = torch.zeros(size, dtype=margin_T.dtype, device=margin_T.device)
        margin_P = margin_P.index_add(0, pair_S[tokens.response_T], margin_T)
        return -torch.nn.functional.logsigmoid(self.beta * margin_P)


# --- penalties ------------------------------------------------------------------------------------


@ratio_free
@needs("ref")
def k2(tokens: Tokens) -> FloatT:
    """(log pi - log ref)^2 / 2, [T]; on-policy its gradient is that of the reverse KL (arXiv 2510.01555)."""
    assert tokens.ref_T is not None
    return 0.5 * (tokens.logp_T - tokens.ref_T) ** 2


@dataclass(frozen=True)
class K3:
    """exp(log ref - log pi) - (log ref - log pi) - 1, [T]; `limit` clamps its value to +-limit (the release: 10).

    There the gradient is zero, however far the two are apart: log ratios beyond +-(limit + 1) have a value beyond the
    limit, and those beyond 80 one that float32 can hardly hold.
    """

    limit: float | None = None
    needs = frozenset({"ref"})
    ratio_free = True

    def __call__(self, tokens: Tokens) -> FloatT:
        assert tokens.ref_T is not None
        log_ratio_T = tokens.ref_T - tokens.logp_T
        if self.limit is None:
            return log_ratio_T.exp() - log_ratio_T - 1
        log_ratio_T = log_ratio_T.clamp(-self.limit - 1, min(self.limit + 1, 80.0))
        return (log_ratio_T.exp() - log_ratio_T - 1).clamp(-self.limit, self.limit)


k3 = K3()


@ratio_free
@needs("ref")
def k1(tokens: Tokens) -> FloatT:
    """log pi - log ref, [T]: for the reward only; in the loss its expected gradient is zero on-policy."""
    assert tokens.ref_T is not None
    return tokens.logp_T - tokens.ref_T


@ratio_free
@needs("entropy")
def negative_entropy(tokens: Tokens) -> FloatT:
    """Minus the entropy of the distribution at each token, [T]: an entropy bonus is a penalty on this."""
    assert tokens.entropy_T is not None
    return -tokens.entropy_T


@dataclass(frozen=True)
class Penalty:
    """`coefficient` * `function`, added to the loss, over the kept responses or over all sampled ones.

    Over `kept` it is conditional on selection; over `sampled` every response must be computed, so nothing is dropped.

    >>> Penalty(k3, 0.001).denominator
    'kept'
    """

    function: Callable[[Tokens], Tensor]
    coefficient: float
    denominator: Literal["kept", "sampled"] = "kept"

    def __post_init__(self) -> None:
        if self.function is k1:
            raise UsageError(
                "a k1 penalty in the loss has zero expected gradient on-policy (arXiv 2510.01555); use k2 or k3 in the "
                "loss, or k1 in the reward (kl_in_reward)"
            )
        if self.denominator not in ("kept", "sampled"):
            raise UsageError(f"a penalty is taken over 'kept' or 'sampled' responses, not {self.denominator!r}")


# --- aggregate ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Aggregate:
    """How token losses become one number: `total` sums a micro-batch, `count` is the one division outside.

    `total` is (Tokens, loss_T) -> scalar; `count` is (Denominator) -> float and knows only how long the
    responses are, so it is known before any forward. `unit` is what may not be torn apart by micro-batches.
    """

    name: str
    total: Callable[[Tokens, Tensor], Tensor]
    count: Callable[[Denominator], float]
    unit: Literal["response", "pair"] = "response"


def _sum(tokens: Tokens, loss: FloatTorP) -> Scalar:
    return loss.sum()


def _sum_of_means(tokens: Tokens, loss_T: FloatT) -> Scalar:
    return (loss_T / tokens.length_S()[tokens.response_T]).sum()


sequence_mean = Aggregate("sequence_mean", _sum_of_means, lambda d: float(len(d.lengths)))
token_mean = Aggregate("token_mean", _sum, lambda d: float(sum(d.lengths)))
constant_length = Aggregate("constant_length", _sum, lambda d: float(len(d.lengths) * d.max_tokens))
pair_mean = Aggregate("pair_mean", _sum, lambda d: float(d.pairs), unit="pair")

# --- critic ---------------------------------------------------------------------------------------


def value_loss(value_T: FloatT, old_value_T: FloatT, return_T: FloatT, clip: float | None) -> FloatT:
    """max((v - R)^2, (clip(v, v_old +- clip) - R)^2) / 2, [T] (PPO's clipped value loss)."""
    loss_T = (value_T - return_T) ** 2
    if clip is not None:
        near_T = old_value_T + (value_T - old_value_T).clamp(-clip, clip)
        loss_T = torch.maximum(loss_T, (near_T - return_T) ** 2)
    return 0.5 * loss_T
