"""The response tokens of a micro-batch: what objectives, ratios and penalties look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from sieverl.algorithms.shapes import FloatT, IntS, IntT


@dataclass(frozen=True)
class Denominator:
    """What a loss is divided by, known before any forward, of all ranks.

    `lengths` are those of the responses that count, in tokens, `sampled_lengths` those of all sampled ones (for
    penalties over them), `pairs` the number of preference pairs, `max_tokens` the length at which sampling stops.
    """

    lengths: Sequence[int]
    sampled_lengths: Sequence[int]
    pairs: int
    max_tokens: int

    @property
    def of_sampled(self) -> Denominator:
        """The same over all sampled responses."""
        return replace(self, lengths=self.sampled_lengths)


@dataclass(frozen=True)
class Tokens:
    """The response tokens of some sequences, packed one after the other.

    `response_T` says which of the S sequences a token belongs to (ascending). `old_T` are the log-probs of the policy
    that the ratio refers to (without them: this policy, gradient stopped). `weight_T` corrects for an engine that
    differs from the learner. `kept_T` marks tokens of selected responses, when rejected ones are there for a penalty.
    `denominator` is that of the whole mini-batch; by default it is made of the sequences that are here.

    >>> two = Tokens(torch.zeros(3), torch.tensor([0, 0, 1]), torch.tensor([1.0, 1.0, -1.0]))
    >>> two.length_S()
    tensor([2, 1])
    """

    logp_T: FloatT
    response_T: IntT
    advantage_T: FloatT
    old_T: FloatT | None = None
    ref_T: FloatT | None = None
    value_T: FloatT | None = None
    entropy_T: FloatT | None = None
    weight_T: FloatT | None = None
    kept_T: FloatT | None = None
    pair_S: IntS | None = None
    denominator: Denominator | None = None

    def length_S(self) -> IntS:
        """Tokens in each sequence, [S]."""
        size = int(self.response_T[-1]) + 1 if len(self.response_T) else 0
        return torch.bincount(self.response_T, minlength=size)

    def counted(self) -> Denominator:
        """The denominator that was given, or that of the sequences that are here."""
        if self.denominator is not None:
            return self.denominator
        lengths = self.length_S().tolist()
        pairs = 0 if self.pair_S is None else len(set(self.pair_S.tolist()))
        return Denominator(lengths, lengths, pairs, max_tokens=1)

    def log_ratio_T(self) -> FloatT:
        """log(pi / pi_old) of each token, [T]."""
        return self.logp_T - (self.logp_T.detach() if self.old_T is None else self.old_T)
