"""Out of memory: the same work once more, with micro-batches of half the size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from sieverl.distributed.allocator import free_cached, is_out_of_memory
from sieverl.distributed.world import World
from sieverl.errors import UsageError

Result = TypeVar("Result")


class Budget:
    """The tokens of a micro-batch on this rank of `world`: fewer once memory has run out.

    The ranks of a sharded model (`together`) take part in every forward, so that one of them cannot begin anew alone.
    """

    def __init__(self, tokens: int, world: World, together: bool = False) -> None:
        self.tokens, self.world, self.together = tokens, world, together
        self.halved = 0  # times that memory ran out, since the ranks agreed

    def fit(self, work: Callable[[int], Result], sizes: Sequence[int]) -> Result:
        """`work(tokens)`; where memory runs out it begins anew with half as many, which later work keeps.

        `sizes` are the samples' lengths in tokens: below the longest, a micro-batch cannot be cut further. Raises a
        UsageError then, and in one of several ranks that compute together.
        """
        while True:
            try:
                return work(self.tokens)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                self._check(sizes, error)
            # here, since the error holds the tensors of the work that failed
            self.tokens //= 2
            while self.tokens >= sum(sizes):  # one micro-batch all the same
                self.tokens //= 2
            self.halved += 1
            free_cached()

    def agree(self) -> float:
        """How often memory ran out on all ranks since the last call; all go on with the fewest tokens."""
        times, self.halved = self.world.sum_floats([self.halved])[0], 0
        if times:
            self.tokens = -self.world.maximum(-self.tokens)
        return times

    def _check(self, sizes: Sequence[int], error: BaseException) -> None:
        """Raise a UsageError where nothing can be halved."""
        longest = max(sizes, default=0)
        if self.together:
            raise UsageError(
                f"rank {self.world.rank} is out of memory with train.micro_batch_tokens = {self.tokens}, and cannot "
                "begin anew alone, since the ranks of a sharded model take part in every forward: lower it to "
                f"{self.tokens // 2} in a new run, or set distributed.activation_checkpointing = true, with which the "
                "same command resumes"
            ) from error
        if min(self.tokens, sum(sizes)) <= longest:
            raise UsageError(
                f"out of memory with one response in a forward and backward pass ({longest} tokens with its prompt): "
                "set distributed.activation_checkpointing = true, with which the same command resumes; in a new run, "
                "lower rollout.max_tokens or train adapters (model.lora.rank = 32)"
            ) from error
