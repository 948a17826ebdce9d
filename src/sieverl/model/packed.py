"""Packed tokens: each prompt once for all of its responses, and which tokens each response attends to.

Legend: P packed tokens, T response tokens, N places of all rows (padding too).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from sieverl.model.attention import Rows
from sieverl.types import Array

WASTE = 0.2  # padding of a row at which a new block begins


class Response(NamedTuple):
    """The token ids of a prompt and of one response to it."""

    prompt_tokens: Sequence[int]
    response_tokens: Sequence[int]


class HasTokens(Protocol):
    """Anything with the token ids of a prompt and of one response to it."""

    @property
    def prompt_tokens(self) -> Sequence[int]: ...
    @property
    def response_tokens(self) -> Sequence[int]: ...


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


def layout(samples: Sequence[HasTokens], device: torch.device) -> Layout:
    """The layout of one micro-batch.

    >>> where = layout([Response([7, 8], [1, 2, 3]), Response([7, 8], [4, 5])], torch.device("cpu"))
    >>> where.ids_P.tolist(), where.position_P.tolist(), where.predict_T.tolist()
    ([7, 8, 1, 2, 4], [0, 1, 2, 3, 2], [1, 2, 3, 1, 4])
    """
    ids: list[int] = []
    position: list[int] = []
    first: dict[tuple[int, ...], int] = {}
    columns, predict = [], []
    for s in samples:
        known, size = tuple(s.prompt_tokens), len(s.prompt_tokens)
        if known not in first:
            first[known] = len(ids)
            ids += known
            position += range(size)
        prompt, own = first[known] + np.arange(size), len(ids) + np.arange(max(0, len(s.response_tokens) - 1))
        ids += s.response_tokens[:-1]
        position += range(size, size + len(own))
        columns.append(np.concatenate([prompt, own]))
        predict.append(columns[-1][size - 1 : size - 1 + len(s.response_tokens)])
    arrays = (
        np.array(ids),
        np.array(position),
        np.concatenate(predict),
        np.concatenate([np.asarray(s.response_tokens, dtype=np.int64) for s in samples]),
        np.repeat(np.arange(len(samples)), [len(s.response_tokens) for s in samples]),
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
