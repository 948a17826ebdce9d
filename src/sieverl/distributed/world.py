"""The ranks of one run. One process is a world of its own; torchrun makes more."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

WAIT = timedelta(minutes=30)  # every collective has a deadline


@dataclass(frozen=True)
class World:
    """This process among `size` ranks."""

    rank: int = 0
    size: int = 1

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """The sum over all ranks, in place and returned."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def sum_floats(self, values: Sequence[float]) -> list[float]:
        """Sums of a few numbers over all ranks, in float64."""
        return (
            list(self.all_reduce(torch.tensor(values, dtype=torch.float64)).tolist()) if self.size > 1 else list(values)
        )

    def sum_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Add up gradients over the ranks. A rank with nothing takes part with zeros."""
        if self.size == 1:
            return
        for p in parameters:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        flat = torch.cat([p.grad.reshape(-1) for p in parameters if p.grad is not None])
        self.all_reduce(flat)
        start = 0
        for p in parameters:
            assert p.grad is not None
            p.grad.copy_(flat[start : start + p.numel()].view_as(p))
            start += p.numel()

    def all_gather(self, value: Any) -> list[Any]:
        """`value` of every rank, in rank order."""
        if self.size == 1:
            return [value]
        out: list[Any] = [None] * self.size
        dist.all_gather_object(out, value)
        return out

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.size > 1:
            dist.barrier()


def init_distributed() -> World:
    """The world that torchrun describes in the environment; a world of one without it."""
    if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return World()
    if not dist.is_initialized():
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=WAIT)
    return World(dist.get_rank(), dist.get_world_size())
