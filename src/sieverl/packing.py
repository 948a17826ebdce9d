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
from sieverl.attention import Rows
from sieverl.types import Array, Credit, Responses

WASTE = 0.2  # padding of a row at which a new block begins


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
    kept_tokens: int

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
        kept, selected = rows[credit.keep[rows]], rows[credit.selected[rows]]
        counted = selected if algorithm.over == "kept" else rows
        out.append(
            MiniBatch(
                samples,
                lengths=responses.length_R[counted].tolist(),
                sampled_lengths=responses.length_R[rows].tolist(),
                pairs=len(np.unique(responses.prompt_R[selected])),
                max_tokens=responses.max_tokens,
                kept=len(kept),
                kept_tokens=int(responses.length_R[kept].sum()),
            )
        )
    return out


def by_prompt(samples: Sequence[Sample]) -> dict[tuple[int, ...], list[int]]:
    """Indices of the samples of each prompt, in the order in which prompts first come."""
    prompts: dict[tuple[int, ...], list[int]] = {}
    for i, sample in enumerate(samples):
        prompts.setdefault(tuple(sample.prompt), []).append(i)
    return prompts


def shares(samples: Sequence[Sample], count: int) -> list[list[Sample]]:
    """`samples` in at most `count` parts of about as many tokens, prompts whole; none is empty unless all are.

    >>> samples = [Sample([prompt] * 3, [1] * n, [], 1.0) for prompt, n in ((1, 5), (2, 9), (1, 5), (3, 1))]
    >>> [[(s.prompt[0], len(s.response)) for s in part] for part in shares(samples, 2)]
    [[(1, 5), (1, 5)], [(2, 9), (3, 1)]]
    """
    prompts = by_prompt(samples)
    sizes = {prompt: len(prompt) + sum(len(samples[i].response) for i in rows) for prompt, rows in prompts.items()}
    parts: list[list[int]] = [[] for _ in range(max(1, min(count, len(prompts))))]
    load = [0] * len(parts)
    for prompt in sorted(prompts, key=lambda p: -sizes[p]):
        least = load.index(min(load))
        parts[least] += prompts[prompt]
        load[least] += sizes[prompt]
    return [[samples[i] for i in sorted(part)] for part in parts]


def micro_batches(samples: Sequence[Sample], budget: int) -> list[list[int]]:
    """Indices of `samples` in groups of at most `budget` tokens; pairs stay whole.

    A group computes each of its prompts once, so that the responses of a prompt stay together where they fit. A sample
    longer than the budget goes alone.

    >>> samples = [Sample([prompt] * 3, [1] * n, [], 1.0) for prompt in (1, 2) for n in (9, 2, 8)]
    >>> micro_batches(samples, 15), micro_batches(samples, 40)
    ([[0, 1], [2], [3, 4], [5]], [[0, 1, 2, 3, 4, 5]])
    """
    groups: list[list[int]] = []
    used = budget
    for prompt, rows in by_prompt(samples).items():
        units: dict[tuple[int, int], list[int]] = {}
        for i in rows:
            units.setdefault((0, samples[i].pair) if samples[i].pair >= 0 else (1, i), []).append(i)
        sizes = [sum(len(samples[i].response) - 1 for i in unit) for unit in units.values()]
        whole = len(prompt) + sum(sizes)
        fresh = True  # the prompt is not yet in the last group
        for unit, size in zip(units.values(), sizes, strict=True):
            needed = whole if fresh and whole <= budget else size + fresh * len(prompt)
            if used + needed > budget or not groups:
                groups.append([])
                used, fresh = 0, True
            groups[-1] += unit
            used += size + fresh * len(prompt)
            fresh = False
    return groups


@dataclass(frozen=True)
class Layout:
    """Packed tokens, [P]: each prompt once and each response but for its last token, which predicts nothing.

    `predict_T` is the packed token whose hidden state predicts each response token, `target_T` that token, `response_T`
    its sample. `rows` says what attends to what.
    """

    ids_P: Tensor
    position_P: Tensor
    rows: Rows
    predict_T: Tensor
    target_T: Tensor
    response_T: Tensor


def layout(samples: Sequence[Sample], device: torch.device) -> Layout:
    """The layout of one micro-batch.

    >>> where = layout([Sample([7, 8], [1, 2, 3], [], 1.0), Sample([7, 8], [4, 5], [], 1.0)], torch.device("cpu"))
    >>> where.ids_P.tolist(), where.position_P.tolist(), where.predict_T.tolist()
    ([7, 8, 1, 2, 4], [0, 1, 2, 3, 2], [1, 2, 3, 1, 4])
    """
    ids: list[int] = []
    position: list[int] = []
    first: dict[tuple[int, ...], int] = {}
    columns, predict = [], []
    for s in samples:
        known, size = tuple(s.prompt), len(s.prompt)
        if known not in first:
            first[known] = len(ids)
            ids += known
            position += range(size)
        prompt, own = first[known] + np.arange(size), len(ids) + np.arange(max(0, len(s.response) - 1))
        ids += s.response[:-1]
        position += range(size, size + len(own))
        columns.append(np.concatenate([prompt, own]))
        predict.append(columns[-1][size - 1 : size - 1 + len(s.response)])
    arrays = (
        np.array(ids),
        np.array(position),
        np.concatenate(predict),
        np.concatenate([np.asarray(s.response, dtype=np.int64) for s in samples]),
        np.repeat(np.arange(len(samples)), [len(s.response) for s in samples]),
    )
    ids_P, position_P, predict_T, target_T, response_T = (torch.from_numpy(x).to(device) for x in arrays)
    return Layout(ids_P, position_P, attending(columns, device), predict_T, target_T, response_T)


def attending(columns: Sequence[Array], device: torch.device) -> Rows:
    """Rows that attend to the packed tokens `columns`, longest first, a new block where padding would exceed WASTE.

    Places of padding hold token 0: they are to the right, where causal attention never looks.
    """
    blocks: list[list[Array]] = []
    for row in sorted(columns, key=len, reverse=True):
        if not blocks or len(row) < (1 - WASTE) * len(blocks[-1][0]):
            blocks.append([])
        blocks[-1].append(row)
    index: list[Array] = []
    place_P = np.zeros(1 + max(int(row.max()) for row in columns), dtype=np.int64)
    places = 0
    for block in blocks:
        width = len(block[0])
        for row in block:
            index.append(np.pad(row, (0, width - len(row))))
            place_P[row] = places + np.arange(len(row))
            places += width
    shapes = [(len(block), len(block[0])) for block in blocks]
    return Rows(torch.from_numpy(np.concatenate(index)).to(device), torch.from_numpy(place_P).to(device), shapes)
