"""The shuffled order of prompts. It has no generator state: a checkpoint saves a cursor of two integers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from sieverl.errors import DataError
from sieverl.types import IntArray


@lru_cache(maxsize=2)
def permutation(size: int, seed: int, epoch: int) -> IntArray:
    """The prompt indices of one epoch in their order: int64 [size], a pure function of the arguments.

    >>> permutation(5, seed=0, epoch=0).tolist()
    [2, 4, 3, 0, 1]
    """
    order = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, epoch]))).permutation(size)
    order.flags.writeable = False
    return order


@dataclass(frozen=True)
class Cursor:
    """The position in the shuffled prompts: `index` prompts of `epoch` have been taken.

    >>> Cursor().take(4, size=3, seed=0)
    ([2, 0, 1, 2], Cursor(epoch=1, index=1))
    """

    epoch: int = 0
    index: int = 0

    def take(self, n: int, size: int, seed: int) -> tuple[list[int], Cursor]:
        """The indices of the next `n` of `size` prompts, and the cursor after them; they can span several epochs.

        Raises DataError if there are no prompts, or fewer than have already been taken of this epoch.
        """
        if size < 1:
            raise DataError("there are no prompts to take: the dataset is empty or every row was dropped")
        if self.index >= size:
            raise DataError(
                f"the run stands at prompt {self.index} of an epoch, but the dataset has {size} prompts: "
                "it is not the dataset that the run was started with; give that one or start a new run directory"
            )
        taken: list[int] = []
        epoch, index = self.epoch, self.index
        while len(taken) < n:
            part = permutation(size, seed, epoch)[index : index + n - len(taken)]
            taken += part.tolist()
            index += len(part)
            if index == size:
                epoch, index = epoch + 1, 0
        return taken, Cursor(epoch, index)
