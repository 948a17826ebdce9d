"""Key/value memory for decoding: allocated in few pieces, rows leave in place, one row a response.

Legend: B rows, H key/value heads, C columns (allocated), L columns in use, D head size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from sieverl.model.policy import Policy

GROWTH = 64  # columns added at the least when the memory is full


class RowLayer(CacheLayerMixin):
    """Keys and values of one layer, [B, H, C, D]; the first L columns are in use.

    Sliding-window layers use it too: old columns stay and the mask hides them.
    """

    is_sliding = False

    def __init__(self) -> None:
        super().__init__()
        self.used = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.keys, self.values = key_states[:, :, :0], value_states[:, :, :0]
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        end = self.used + key_states.shape[2]
        self.reserve(end)
        self.keys[:, :, self.used : end] = key_states
        self.values[:, :, self.used : end] = value_states
        self.used = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def reserve(self, columns: int) -> None:
        """Make room for `columns` columns, zero where new: masked, but products go over them."""
        if columns > self.keys.shape[2]:
            self.resize(max(columns, self.used + GROWTH))

    def resize(self, columns: int, source: Tensor | None = None) -> None:
        """Move to memory of `columns` columns; with `source`, row i becomes a copy of row source[i]."""
        self.keys, self.values = (self._moved(x, columns, source) for x in (self.keys, self.values))

    def _moved(self, old: Tensor, columns: int, source: Tensor | None) -> Tensor:
        rows, heads, _, size = old.shape
        new = old.new_zeros(rows if source is None else len(source), heads, columns, size)
        new[:, :, : self.used] = old[:, :, : self.used] if source is None else old[source, :, : self.used]
        return new

    def keep(self, rows: int, source: Tensor, target: Tensor) -> None:
        """Copy rows `source` to `target`, then keep the first `rows`."""
        for x in (self.keys, self.values):
            if len(source):
                x[target, :, : self.used] = x[source, :, : self.used]
        self.keys, self.values = self.keys[:rows], self.values[:rows]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.used + query_length, 0

    def get_seq_length(self) -> int:
        return self.used

    def get_max_length(self) -> int:
        return -1


class RowCache(Cache):
    """One `RowLayer` a layer of the model, made as layers first write."""

    def __init__(self) -> None:
        super().__init__(layer_class_to_replicate=RowLayer)

    def spread(self, source: Tensor, room: int) -> None:
        """Row i becomes a copy of row source[i] (a group shares its prefill), with `room` more columns."""
        for layer in self.layers:
            layer.resize(layer.used + room, source)

    def reserve(self, columns: int) -> int:
        """Make room for `columns` columns in every layer; how many there are now."""
        for layer in self.layers:
            layer.reserve(columns)
        return int(self.layers[0].keys.shape[2])

    @property
    def rows(self) -> int:
        """Rows of the memory: the live ones and, where that is quicker, a few finished ones."""
        return len(self.layers[0].keys)

    def keep(self, rows: int, source: Tensor, target: Tensor) -> None:
        """Copy rows `source` to `target` in every layer, then keep the first `rows`."""
        for layer in self.layers:
            layer.keep(rows, source, target)


class LibraryCache:
    """The library's own memory of rows without padding, whatever it is made of: attention, convolutions, states."""

    def __init__(self) -> None:
        self.memory: Any = None
        self.rows = 0
        self.used = 0

    def prefill(self, policy: Policy, ids_PL: Tensor) -> Tensor:
        """Hidden states of prompts of one length, [P, L, D]."""
        self.rows = len(ids_PL)
        return self.feed(policy, ids_PL)

    def feed(self, policy: Policy, ids_BL: Tensor) -> Tensor:
        """Hidden states of the next tokens of each row, [B, L, D]."""
        hidden_BLD, self.memory = policy.continued(ids_BL, self.memory, self.used)
        self.used += ids_BL.shape[1]
        return hidden_BLD

    def spread(self, source: Tensor, room: int) -> None:
        """Row i becomes a copy of row source[i]."""
        self.rows = len(source)
        self.memory.reorder_cache(source)

    def keep(self, rows: int, source: Tensor, target: Tensor) -> None:
        """Copy rows `source` to `target`, then keep the first `rows`."""
        self.spread(kept(rows, source, target), 0)


class NoCache:
    """The tokens of each row so far, [B, L], for a family that keeps no memory."""

    def __init__(self) -> None:
        self.ids = torch.empty(0, 0, dtype=torch.int64)

    def prefill(self, policy: Policy, ids_PL: Tensor) -> Tensor:
        """Hidden states of prompts of one length, [P, L, D]."""
        self.ids = ids_PL
        return policy.hidden(ids_PL)

    @property
    def rows(self) -> int:
        """Rows that are decoded."""
        return len(self.ids)

    def spread(self, source: Tensor, room: int) -> None:
        """Row i becomes a copy of row source[i]."""
        self.ids = self.ids[source]

    def keep(self, rows: int, source: Tensor, target: Tensor) -> None:
        """Copy rows `source` to `target`, then keep the first `rows`."""
        self.spread(kept(rows, source, target), 0)


def kept(rows: int, source: Tensor, target: Tensor) -> Tensor:
    """Which row stands in each of the first `rows` places once rows `source` have moved to `target`.

    >>> kept(3, torch.tensor([4]), torch.tensor([1])).tolist()
    [0, 4, 2]
    """
    index = torch.arange(rows, device=source.device)
    index[target] = source
    return index
