"""Packed tokens: each prompt once for all of its responses, and which tokens each response attends to.

Legend: P packed tokens, T response tokens, N positions of all sequences (padding included).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch

from sieverl.model.attention import AttentionBlocks
from sieverl.model.shapes import IntP, IntT
from sieverl.types import IntArray

WASTE = 0.2  # share of padding in a sequence above which a new block begins


class Response(NamedTuple):
    """The token ids of a prompt and of one response to it."""

    prompt_tokens: Sequence[int]
    response_tokens: Sequence[int]


@runtime_checkable
class HasTokens(Protocol):
    """What has the token ids of a prompt and of one response to it."""

    @property
    def prompt_tokens(self) -> Sequence[int]: ...
    @property
    def response_tokens(self) -> Sequence[int]: ...


@dataclass(frozen=True)
class Layout:
    """Packed tokens: each prompt once, and each response without its last token, which predicts nothing.

    `predict_T` is the packed token whose hidden state predicts each response token, `target_T` the response token,
    `response_T` the response it belongs to. `blocks` says which tokens attend to which.
    """

    ids_P: IntP
    position_P: IntP
    blocks: AttentionBlocks
    predict_T: IntT
    target_T: IntT
    response_T: IntT


NOTHING = [Response([0], [0])]  # what a rank computes that has nothing while others compute


def layout(samples: Sequence[HasTokens], device: torch.device) -> Layout:
    """The layout of one micro-batch.

    >>> packed = layout([Response([7, 8], [1, 2, 3]), Response([7, 8], [4, 5])], torch.device("cpu"))
    >>> packed.ids_P.tolist(), packed.position_P.tolist(), packed.predict_T.tolist()
    ([7, 8, 1, 2, 4], [0, 1, 2, 3, 2], [1, 2, 3, 1, 4])
    """
    ids: list[int] = []
    position: list[int] = []
    first: dict[tuple[int, ...], int] = {}
    sequences, predict = [], []
    for s in samples:
        prompt_tokens, size = tuple(s.prompt_tokens), len(s.prompt_tokens)
        if prompt_tokens not in first:
            first[prompt_tokens] = len(ids)
            ids += prompt_tokens
            position += range(size)
        prompt, own = first[prompt_tokens] + np.arange(size), len(ids) + np.arange(max(0, len(s.response_tokens) - 1))
        ids += s.response_tokens[:-1]
        position += range(size, size + len(own))
        sequences.append(np.concatenate([prompt, own]))
        predict.append(sequences[-1][size - 1 : size - 1 + len(s.response_tokens)])
    arrays = (
        np.array(ids),
        np.array(position),
        np.concatenate(predict),
        np.concatenate([np.asarray(s.response_tokens, dtype=np.int64) for s in samples]),
        np.repeat(np.arange(len(samples)), [len(s.response_tokens) for s in samples]),
    )
    ids_P, position_P, predict_T, target_T, response_T = (torch.from_numpy(x).to(device) for x in arrays)
    return Layout(ids_P, position_P, attention_blocks(sequences, device), predict_T, target_T, response_T)


def attention_blocks(sequences: Sequence[IntArray], device: torch.device) -> AttentionBlocks:
    """Blocks of sequences, given by the packed tokens of each: longest first, a new block where padding exceeds WASTE.

    Padding holds packed token 0: it is on the right, where causal attention never looks.

    >>> blocks = attention_blocks([np.array([0, 1]), np.array([0, 2, 3, 4])], torch.device("cpu"))
    >>> blocks.shapes, blocks.token_N.tolist(), blocks.position_P.tolist()
    ([(1, 4), (1, 2)], [0, 2, 3, 4, 0, 1], [4, 5, 1, 2, 3])
    """
    blocks: list[list[IntArray]] = []
    for sequence in sorted(sequences, key=len, reverse=True):
        if not blocks or len(sequence) < (1 - WASTE) * len(blocks[-1][0]):
            blocks.append([])
        blocks[-1].append(sequence)
    token: list[IntArray] = []
    position_P = np.zeros(1 + max(int(sequence.max()) for sequence in sequences), dtype=np.int64)
    start = 0
    for block in blocks:
        width = len(block[0])
        for sequence in block:
            token.append(np.pad(sequence, (0, width - len(sequence))))
            position_P[sequence] = start + np.arange(len(sequence))
            start += width
    shapes = [(len(block), len(block[0])) for block in blocks]
    token_N = torch.from_numpy(np.concatenate(token)).to(device)
    return AttentionBlocks(token_N, torch.from_numpy(position_P).to(device), shapes)
