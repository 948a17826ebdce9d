"""Cut, drop, balance: from credited responses to mini-batches and micro-batches.

Mini-batches are a partition of the sampled prompts by prompt order, made before selection, so the number of optimiser
steps is fixed and dropping a response equals masking it. Legend: R responses of all ranks, S samples to compute.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sieverl.algorithm import Algorithm
from sieverl.types import Array, Credit, Responses

WASTE = 0.2  # padding of one sample at which a micro-batch ends early


@dataclass
class Sample:
    """One response that the learner computes: its tokens, its credit, and what was scored before the first step.

    `old`, `ref`, `value`, `advantage` and `target` are per response token, filled in by the learner when needed.
    """

    prompt: Sequence[int]
    response: Sequence[int]
    engine_logp: Sequence[float]
    credit: float
    kept: bool = True
    pair: int = -1
    old: Tensor | None = None
    ref: Tensor | None = None
    value: Tensor | None = None
    advantage: Tensor | None = None
    target: Tensor | None = None

    def __len__(self) -> int:
        return len(self.prompt) + len(self.response)


@dataclass(frozen=True)
class MiniBatch:
    """One optimiser step: this rank's samples, and what the one global denominator is made of (all ranks)."""

    samples: list[Sample]
    lengths: list[int]
    sampled_lengths: list[int]
    pairs: int
    max_tokens: int
    kept: int

    def count(self, algorithm: Algorithm) -> float:
        """The denominator, known before any forward."""
        return algorithm.aggregate.count(self.lengths, self.pairs, self.max_tokens)


def mini_batch_of(prompt_R: Array, minibatches: int) -> Array:
    """Which mini-batch each response belongs to, by prompt order, int [R].

    >>> mini_batch_of(np.array([0, 0, 1, 2, 3, 3]), 2)
    array([0, 0, 0, 1, 1, 1])
    """
    ordered, index = np.unique(prompt_R, return_inverse=True)
    return index * minibatches // max(1, len(ordered))


def pack(
    responses: Responses, credit: Credit, mine: dict[int, Sample], algorithm: Algorithm, minibatches: int
) -> list[MiniBatch]:
    """Mini-batches of this rank. `mine` holds this rank's responses by row; the rows are those of all ranks."""
    batch_R = mini_batch_of(responses.prompt_R, minibatches)
    compute_R = credit.keep | algorithm.penalises_sampled
    out = []
    for batch in range(minibatches):
        rows = np.flatnonzero(batch_R == batch)
        samples = []
        for row in rows[compute_R[rows]].tolist():
            if row not in mine:
                continue
            sample = mine[row]
            sample.kept = bool(credit.keep[row])
            sample.credit = float(credit.advantage[row]) if sample.kept else 0.0
            sample.pair = int(responses.prompt_R[row]) if algorithm.aggregate.unit == "pair" else -1
            samples.append(sample)
        kept = rows[credit.keep[rows]]
        counted = kept if algorithm.over == "kept" else rows
        out.append(
            MiniBatch(
                samples,
                lengths=responses.length_R[counted].tolist(),
                sampled_lengths=responses.length_R[rows].tolist(),
                pairs=len(np.unique(responses.prompt_R[kept])),
                max_tokens=responses.max_tokens,
                kept=len(kept),
            )
        )
    return out


def micro_batches(samples: Sequence[Sample], budget: int) -> list[list[int]]:
    """Indices of `samples` in groups of at most `budget` tokens with their padding, longest first; pairs stay whole.

    Sorting by length keeps padding small, and a group that is a quarter full ends early where the next sample would be
    more than WASTE padding. A sample longer than the budget goes alone.

    >>> [len(group) for group in micro_batches([Sample([1] * 3, [1] * n, [], 1.0) for n in (1, 9, 2, 8)], 24)]
    [2, 2]
    """
    units: dict[tuple[int, int], list[int]] = {}
    for i, sample in enumerate(samples):
        units.setdefault((0, sample.pair) if sample.pair >= 0 else (1, i), []).append(i)
    ordered = sorted(units.values(), key=lambda unit: -max(len(samples[i]) for i in unit))
    groups: list[list[int]] = []
    width = 0
    for unit in ordered:
        longest = max(len(samples[i]) for i in unit)
        size = len(groups[-1]) * width if groups else 0
        fits = groups and size + len(unit) * width <= budget
        if fits and (4 * size < budget or longest >= (1 - WASTE) * width):
            groups[-1] += unit
        else:
            groups.append(list(unit))
            width = longest
    return groups


@dataclass
class Layout:
    """Where the response tokens of a micro-batch stand: `row`, `column` of the hidden state that predicts each."""

    ids_BL: Tensor
    row_T: Tensor
    column_T: Tensor
    target_T: Tensor
    response_T: Tensor


def layout(samples: Sequence[Sample], pad: int, device: torch.device) -> Layout:
    """Right-padded ids and the places of response tokens. Causal attention never looks at padding."""
    ids = torch.full((len(samples), max(map(len, samples))), pad, dtype=torch.int64)
    sizes = torch.tensor([len(s.response) for s in samples])
    for i, s in enumerate(samples):
        ids[i, : len(s)] = torch.tensor([*s.prompt, *s.response])
    row_T = torch.repeat_interleave(torch.arange(len(samples)), sizes)
    offset_T = torch.arange(len(row_T)) - (sizes.cumsum(0) - sizes)[row_T]
    column_T = torch.tensor([len(s.prompt) for s in samples])[row_T] + offset_T - 1
    target_T = ids[row_T, column_T + 1]
    return Layout(*(x.to(device) for x in (ids, row_T, column_T, target_T, row_T)))
