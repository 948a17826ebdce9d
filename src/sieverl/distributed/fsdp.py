"""Models sharded over the ranks with FSDP2 (`torch.distributed.fsdp.fully_shard`).

Parameters, gradients and optimiser state are DTensors of which each rank holds a part. Gradients are summed over the
ranks, not averaged: the loss has its one division already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MethodType
from typing import TypeVar

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor, distribute_tensor

from sieverl.distributed.allocator import give_back_large_tensors

LARGE_MODEL = 256 << 20  # bytes; with a smaller one activations are the large tensors, and page faults cost a fifth
CALL = "call_with_weights"  # the method of a sharded model inside which its weights are there
Result = TypeVar("Result")
T = TypeVar("T", bound=Tensor)


@dataclass(frozen=True)
class Sharding:
    """How a model is spread over `ranks` ranks.

    Groups of `group` ranks hold a whole model between them (HSDP: a group for each machine, so that weights are
    gathered within it and only gradients cross the machines); 0 is one group of all. With `cpu_offload` the parts lie
    in CPU memory while a GPU computes.
    """

    ranks: int
    group: int = 0
    cpu_offload: bool = False

    def mesh(self, device: str) -> DeviceMesh:
        """The ranks in a line, or in rows of a group each."""
        group = self.group or self.ranks
        if group == self.ranks:
            return init_device_mesh(device, (self.ranks,))
        return init_device_mesh(device, (self.ranks // group, group), mesh_dim_names=("replicate", "shard"))

    def offload(self) -> OffloadPolicy:
        """Where the parts lie."""
        return CPUOffloadPolicy(pin_memory=torch.cuda.is_available()) if self.cpu_offload else OffloadPolicy()


def shard(model: torch.nn.Module, parts: Sequence[torch.nn.Module], sharding: Sharding, bfloat16: bool) -> None:
    """Shard `model`: each of `parts`, which are gathered one at a time, then the rest, gathered all the while.

    Parameters stay in their dtype; with `bfloat16` they are gathered in bfloat16 and gradients are summed in float32.
    Every rank must call this, and from then on every forward and backward.
    """
    mixed = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if bfloat16 else MixedPrecisionPolicy()
    device = next(model.parameters()).device.type
    mesh, offload = sharding.mesh(device), sharding.offload()
    if device == "cpu" and sum(p.nbytes for p in model.parameters()) >= LARGE_MODEL:
        give_back_large_tensors()
    for module in (*parts, model):
        fully_shard(module, mesh=mesh, mp_policy=mixed, offload_policy=offload)
        setattr(module, CALL, MethodType(_call, module))
        register_fsdp_forward_method(module, CALL)
    for part in sharded_modules(model):
        part.set_gradient_divide_factor(1.0)
        part.set_force_sum_reduction_for_comms(True)  # gloo has no other
        if device == "cpu":
            part.set_modules_to_backward_prefetch([part])  # none: there is nothing to overlap, and it takes memory
    with torch.no_grad():  # makes `model` the root of its parts
        call_with_weights(model, lambda: torch.zeros(()))
    reshard(model)


def _call(self: torch.nn.Module, function: Callable[[], Result]) -> Result:
    return function()


def call_with_weights(module: torch.nn.Module, function: Callable[[], Result]) -> Result:
    """The tensors that `function` returns; inside it the weights of `module` beside its parts are gathered.

    A module that is not sharded has its weights anyway.
    """
    result: Result = getattr(module, CALL)(function) if isinstance(module, FSDPModule) else function()
    return result


def sharded_modules(model: torch.nn.Module) -> list[FSDPModule]:
    """The modules that are gathered as one, the root first."""
    return [module for module in model.modules() if isinstance(module, FSDPModule)]


def reshard(model: torch.nn.Module) -> None:
    """Give up the gathered weights: from here on the parameters of `model` are the parts again."""
    for module in sharded_modules(model):
        module.reshard()


@contextmanager
def gathered(model: torch.nn.Module) -> Iterator[None]:
    """All weights of `model` on every rank meanwhile, so that ranks can compute without each other (no gradients)."""
    modules = sharded_modules(model)
    for module in modules:
        module.set_reshard_after_forward(False, recurse=False)
        module.unshard()
    try:
        yield
    finally:
        for number, module in enumerate(modules):
            module.reshard()
            module.set_reshard_after_forward(number > 0, recurse=False)


def is_sharded(tensor: Tensor) -> bool:
    """Whether each rank holds a part of it."""
    return isinstance(tensor, DTensor)


def by_kind(tensors: Iterable[T]) -> list[list[T]]:
    """Replicated and sharded tensors apart, without an empty list: a fused kernel takes one kind."""
    known = list(tensors)
    kinds = ([t for t in known if is_sharded(t) == sharded] for sharded in (False, True))
    return [kind for kind in kinds if kind]


def whole(tensor: Tensor) -> Tensor:
    """A tensor of which each rank holds a part, as a whole on each (a collective); any other one as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def part_like(tensor: Tensor, like: Tensor) -> Tensor:
    """This rank's part of a whole tensor, sharded as `like` is; the tensor itself where `like` is not."""
    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)  # each rank has the whole
