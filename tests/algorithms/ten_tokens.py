"""Ten tokens of four sequences, the start of many tests here."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sieverl.algorithms.tokens import Denominator, Tokens

LENGTHS = [3, 1, 4, 2]
F64 = torch.float64


def tokens(seed: int = 0, **changes: Any) -> Tokens:
    """Ten tokens of four sequences, two pairs, away from the kinks of clipping; each field is there."""
    g = np.random.default_rng(seed)
    response = np.repeat(np.arange(4), LENGTHS)
    old = -g.uniform(0.1, 3.0, 10)
    logp = old + g.choice([-0.4, -0.1, 0.05, 0.35], 10)
    values = {
        "logp_T": torch.tensor(logp, dtype=F64, requires_grad=True),
        "response_T": torch.tensor(response),
        "advantage_T": torch.tensor(np.array([1.0, -1.0, 0.5, -2.0])[response], dtype=F64),
        "old_T": torch.tensor(old, dtype=F64),
        "ref_T": torch.tensor(logp + g.normal(0, 0.3, 10), dtype=F64),
        "value_T": torch.tensor(g.normal(0, 1, 10), dtype=F64),
        "entropy_T": torch.tensor(g.uniform(0, 2, 10), dtype=F64, requires_grad=True),
        "pair_S": torch.tensor([7, 7, 9, 9]),
        "denominator": Denominator(LENGTHS, LENGTHS, pairs=2, max_tokens=8),
    }
    return Tokens(**{**values, **changes})


class Lists(NamedTuple):
    """The fields of `tokens` as plain lists, one a sequence."""

    logp: list[list[float]]
    advantage: list[list[float]]
    old: list[list[float]]
    ref: list[list[float]]
    value: list[list[float]]
    entropy: list[list[float]]


def given(value_T: Tensor | None) -> Tensor:
    """A field of `tokens`, which are all there."""
    assert value_T is not None
    return value_T


def split(value_T: Tensor | None) -> list[list[float]]:
    """A value of each token as one list a sequence."""
    return [sequence.tolist() for sequence in torch.split(given(value_T).detach(), LENGTHS)]


def lists(t: Tokens) -> Lists:
    return Lists(*map(split, (t.logp_T, t.advantage_T, t.old_T, t.ref_T, t.value_T, t.entropy_T)))
