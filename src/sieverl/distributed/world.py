"""The ranks of one run. One process is a world of its own; torchrun starts more."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from sieverl.errors import UsageError, first_line

BACKENDS = "cpu:gloo,cuda:nccl"  # with GPUs: tensors are reduced where they are
WAIT = timedelta(minutes=30)  # every collective has a deadline
Value = TypeVar("Value")


@dataclass(frozen=True)
class World:
    """This process among `size` ranks.

    >>> World().sum_floats([0.5, 2.0]), World().all_gather("a")
    ([0.5, 2.0], ['a'])
    """

    rank: int = 0
    size: int = 1
    group: dist.ProcessGroup | None = None  # None: the default one

    def another(self) -> World:
        """The same ranks over connections of their own (on the CPU), for use beside this one in another thread."""
        return self if self.size == 1 else World(self.rank, self.size, dist.new_group(backend="gloo", timeout=WAIT))

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """The sum over all ranks, in place and returned."""
        if self.size > 1:
            dist.all_reduce(tensor, group=self.group)
        return tensor

    def sum_floats(self, values: Sequence[float]) -> list[float]:
        """Sums of a few numbers over all ranks, in float64."""
        if self.size == 1:
            return list(values)
        return list(self.all_reduce(torch.tensor(values, dtype=torch.float64)).tolist())

    def all_gather(self, value: Value) -> list[Value]:
        """`value` of every rank, in rank order."""
        out = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(out, value, group=self.group)
        return out

    def gather(self, value: Value) -> list[Value]:
        """`value` of every rank, in rank order, on rank 0; nothing on the others."""
        if self.size == 1:
            return [value]
        out = [value] * self.size if self.rank == 0 else None
        dist.gather_object(value, out, group=self.group, group_dst=0)
        return out or []

    def all_to_all(self, tensor: Tensor, sent: Sequence[int], received: Sequence[int]) -> Tensor:
        """What every rank has for this one, in rank order: `tensor` is cut into `sent` entries for each rank."""
        if self.size == 1:
            return tensor
        out = tensor.new_empty(sum(received))
        dist.all_to_all_single(out, tensor, list(received), list(sent), group=self.group)
        return out

    def maximum(self, value: int) -> int:
        """The largest value of all ranks."""
        if self.size == 1:
            return value
        tensor = torch.tensor(value)
        dist.all_reduce(tensor, dist.ReduceOp.MAX, group=self.group)
        return int(tensor)

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.size > 1:
            dist.barrier(group=self.group)


def init_distributed() -> World:
    """The world that torchrun or Ray Train describes in the environment; a world of one process without it.

    Each rank of a machine takes the GPU of its local number. Tensors are reduced where they are: over gloo on a CPU,
    over NCCL on a GPU. Ray Train has done both when a rank starts. Raises a UsageError if the ranks cannot meet.
    """
    if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return World()
    if not dist.is_initialized():
        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if gpus:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % gpus)
        try:
            dist.init_process_group(BACKENDS if gpus else "gloo", timeout=WAIT)
        except (dist.DistNetworkError, dist.DistStoreError, ValueError) as error:
            raise _not_met(error) from error
    return World(dist.get_rank(), dist.get_world_size())


def _not_met(error: Exception) -> UsageError:
    where = f"{os.environ.get('MASTER_ADDR', '(no MASTER_ADDR)')}:{os.environ.get('MASTER_PORT', '(no MASTER_PORT)')}"
    return UsageError(
        f"rank {os.environ['RANK']} of {os.environ['WORLD_SIZE']} cannot meet the others at {where}: "
        f"{first_line(error)}; if the port is taken, choose another (torchrun --master-port N, or --standalone on one "
        "machine); if a machine is not reached, use an address that all of them reach"
    )
