"""What decoding remembers of a generation batch: a KV cache that grows in few steps and is compacted in place.

Legend: B sequences, P prompts, H key/value heads, C positions allocated, L positions in use, D size of a head or of a
hidden state, M moved sequences.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from sieverl.model.policy import Policy
from sieverl.model.shapes import BoolBL, FloatBD, FloatBHLD, FloatPLD, IntB, IntM, IntP, IntPL

GROWTH = 64  # positions added at least when the cache is full


class DecodingCache(Protocol):
    """The state of the sequences of one generation batch, from their prompts to their last tokens."""

    @property
    def sequences(self) -> int:
        """Sequences held: the live ones and, where eviction is in multiples, a few finished ones."""
        ...

    def prefill(self, policy: Policy, ids_PL: IntPL, start_P: IntP, padded: bool) -> FloatPLD:
        """Hidden states of left-padded prompts, [P, L, D]. `start_P` is the padding of each; `padded`: any has some."""
        ...

    def feed(self, policy: Policy, token_B: IntB, start_B: IntB, padded: bool) -> FloatBD:
        """Hidden states after one more token in each sequence, [B, D], by the model's own forward."""
        ...

    def expand(self, source: IntB, room: int) -> None:
        """Sequence i becomes a copy of sequence source[i] (a group shares its prefill), with `room` more positions."""
        ...

    def compact(self, sequences: int, source: IntM, target: IntM) -> None:
        """Move sequences `source` to the places `target`, then keep the first `sequences`: the rest is evicted."""
        ...


class KVLayer(CacheLayerMixin):
    """Keys and values of one layer, [B, H, C, D]; the first L positions are in use.

    Sliding-window layers use it too: old positions stay and the mask hides them.
    """

    is_sliding = False

    def __init__(self) -> None:
        super().__init__()
        self.used = 0

    def lazy_initialization(self, key_states: FloatBHLD, value_states: Tensor) -> None:
        self.keys, self.values = key_states[:, :, :0], value_states[:, :, :0]
        self.is_initialized = True

    def update(
        self, key_states: FloatBHLD, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        end = self.used + key_states.shape[2]
        self.reserve(end)
        self.keys[:, :, self.used : end] = key_states
        self.values[:, :, self.used : end] = value_states
        self.used = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def reserve(self, positions: int) -> None:
        """Allocate at least `positions` positions; new ones are zero, since masked matrix multiplications read them."""
        if positions > self.keys.shape[2]:
            self.resize(max(positions, self.used + GROWTH))

    def resize(self, positions: int, source: IntB | None = None) -> None:
        """Reallocate with `positions` positions; with `source`, sequence i becomes a copy of sequence source[i]."""
        self.keys, self.values = (self._resized(x, positions, source) for x in (self.keys, self.values))

    def _resized(self, old: Tensor, positions: int, source: Tensor | None) -> Tensor:
        sequences, heads, _, size = old.shape
        new = old.new_zeros(sequences if source is None else len(source), heads, positions, size)
        new[:, :, : self.used] = old[:, :, : self.used] if source is None else old[source, :, : self.used]
        return new

    def compact(self, sequences: int, source: IntM, target: IntM) -> None:
        for x in (self.keys, self.values):
            if len(source):
                x[target, :, : self.used] = x[source, :, : self.used]
        self.keys, self.values = self.keys[:sequences], self.values[:sequences]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.used + query_length, 0

    def get_seq_length(self) -> int:
        return self.used

    def get_max_length(self) -> int:
        return -1


class KVCache(Cache):
    """Keys and values of left-padded sequences: one `KVLayer` a layer of the model, made when it first writes."""

    def __init__(self) -> None:
        super().__init__(layer_class_to_replicate=KVLayer)

    @property
    def sequences(self) -> int:
        return len(self.layers[0].keys)

    def prefill(self, policy: Policy, ids_PL: IntPL, start_P: IntP, padded: bool) -> FloatPLD:
        position_L = torch.arange(ids_PL.shape[1], device=ids_PL.device)
        mask_PL = (position_L >= start_P[:, None]).long() if padded else None
        return policy.hidden(ids_PL, (position_L - start_P[:, None]).clamp(min=0), mask_PL, self)

    def feed(self, policy: Policy, token_B: IntB, start_B: IntB, padded: bool) -> FloatBD:
        used = self.get_seq_length()
        mask_BL = attended(start_B, used, used + 1).long() if padded else None
        return policy.hidden(token_B[:, None], (used - start_B)[:, None], mask_BL, self)[:, -1]

    def expand(self, source: IntB, room: int) -> None:
        for layer in self.layers:
            layer.resize(layer.used + room, source)

    def compact(self, sequences: int, source: IntM, target: IntM) -> None:
        for layer in self.layers:
            layer.compact(sequences, source, target)

    def reserve(self, positions: int) -> int:
        """Allocate at least `positions` positions in every layer; how many there are now."""
        for layer in self.layers:
            layer.reserve(positions)
        return int(self.layers[0].keys.shape[2])


class TransformersCache:
    """The model's own cache in transformers (keys and values, convolutions, states); no sequence has padding."""

    def __init__(self) -> None:
        self.cache: Cache | None = None
        self.sequences = 0
        self.used = 0

    def prefill(self, policy: Policy, ids_PL: IntPL, start_P: IntP, padded: bool) -> FloatPLD:
        self.sequences = len(ids_PL)
        return self._forward(policy, ids_PL)

    def feed(self, policy: Policy, token_B: IntB, start_B: IntB, padded: bool) -> FloatBD:
        return self._forward(policy, token_B[:, None])[:, -1]

    def _forward(self, policy: Policy, ids_BL: Tensor) -> Tensor:
        hidden_BLD, self.cache = policy.hidden_with_own_cache(ids_BL, self.cache, self.used)
        self.used += ids_BL.shape[1]
        return hidden_BLD

    def expand(self, source: IntB, room: int) -> None:
        assert self.cache is not None, "prefill comes first"
        self.sequences = len(source)
        self.cache.reorder_cache(source)

    def compact(self, sequences: int, source: IntM, target: IntM) -> None:
        self.expand(compacted(sequences, source, target), 0)


class TokenHistory:
    """The token ids of each sequence so far, [B, L], for models without a usable cache: each step recomputes all."""

    def __init__(self) -> None:
        self.ids_BL = torch.empty(0, 0, dtype=torch.int64)

    @property
    def sequences(self) -> int:
        return len(self.ids_BL)

    def prefill(self, policy: Policy, ids_PL: IntPL, start_P: IntP, padded: bool) -> FloatPLD:
        self.ids_BL = ids_PL
        return policy.hidden(ids_PL)

    def feed(self, policy: Policy, token_B: IntB, start_B: IntB, padded: bool) -> FloatBD:
        self.ids_BL = torch.cat([self.ids_BL, token_B[:, None]], 1)
        return policy.hidden(self.ids_BL)[:, -1]

    def expand(self, source: IntB, room: int) -> None:
        self.ids_BL = self.ids_BL[source]

    def compact(self, sequences: int, source: IntM, target: IntM) -> None:
        self.expand(compacted(sequences, source, target), 0)


def compacted(sequences: int, source: IntM, target: IntM) -> IntB:
    """Which sequence is at each of the first `sequences` places once sequences `source` have moved to `target`.

    >>> compacted(3, torch.tensor([4]), torch.tensor([1])).tolist()
    [0, 4, 2]
    """
    index = torch.arange(sequences, device=source.device)
    index[target] = source
    return index


def attended(start_B: IntB, newest: int, positions: int) -> BoolBL:
    """Which of the first `positions` positions the token at position `newest` attends to, bool [B, positions].

    >>> attended(torch.tensor([0, 2]), 2, 4).long().tolist()
    [[1, 1, 1, 0], [0, 0, 1, 0]]
    """
    position_L = torch.arange(positions, device=start_B.device)
    return (position_L >= start_B[:, None]) & (position_L <= newest)
