"""The two formats of a checkpoint. Each takes what is to be written, on all ranks, and gives what writes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.tensor import DTensor

from sieverl.distributed import parts
from sieverl.distributed.fsdp import whole
from sieverl.distributed.world import World
from sieverl.model.policy import Policy
from sieverl.model.types import as_module, has_adapters

STATE = "training.safetensors"  # in one file
PARTS = "training"  # the folder of a file for each rank
Tensors = Mapping[str, Tensor]
Take = Callable[[Tensors], dict[str, Tensor]]
"""Tensors as they are, or copies of them in CPU memory."""
Write = Callable[[Path, World], None]
"""Writes into a folder; all ranks call it."""
Format = Callable[[Policy, Tensors, Take, bool], Write]
"""Is told whether this is the first rank."""


def staged(tensors: Tensors) -> dict[str, Tensor]:
    """Copies in CPU memory, sharded as they are; those of one storage share one.

    >>> import torch
    >>> weight = torch.ones(2)
    >>> copies = staged({"embedding": weight, "head": weight})
    >>> weight.zero_(), copies["head"], copies["head"].data_ptr() == copies["embedding"].data_ptr()
    (tensor([0., 0.]), tensor([1., 1.]), True)
    """
    stager = DefaultStager(StagingOptions(False, False, False, False))
    try:
        return cast(dict[str, Tensor], stager.stage({name: x.detach() for name, x in tensors.items()}))
    finally:
        stager.close()


def full(policy: Policy, tensors: Tensors, take: Take, first: bool) -> Write:
    """One file of training state, written by the first rank; the others help to put sharded tensors together."""
    weights, state = _model(policy, take, first), _on_first(tensors, take, first)

    def write(folder: Path, world: World) -> None:
        if first:
            policy.model.save_pretrained(folder, state_dict=weights)
            save_file({name: x.contiguous() for name, x in state.items()}, folder / STATE)

    return write


def sharded(policy: Policy, tensors: Tensors, take: Take, first: bool) -> Write:
    """Each rank writes its part of the training state; the weights become files of whole tensors: others read them."""
    adapters = _model(policy, take, first) if has_adapters(policy.model) else None  # they are small
    named = as_module(policy.causal).state_dict(keep_vars=True)
    tied_once = {id(x): (name, x.detach()) for name, x in reversed(named.items())}
    weights = take(dict(reversed(tied_once.values()))) if adapters is None else {}
    state = take(tensors)

    def write(folder: Path, world: World) -> None:
        if first and adapters is not None:
            policy.model.save_pretrained(folder, state_dict=adapters)
        elif first:
            model = policy.causal
            model.config.architectures = [type(model).__name__.removeprefix("FSDP")]
            model.config.dtype = str(policy.head.weight.dtype).removeprefix("torch.")
            model.config.save_pretrained(folder)
            model.generation_config.save_pretrained(folder)
        if weights:
            parts.write_whole(folder, weights, world)
        (folder / PARTS).mkdir(exist_ok=True)  # whichever rank is there first
        parts.write(folder / PARTS, state, world)

    return write


FORMATS: dict[str, Format] = {"full": full, "sharded": sharded}


def _model(policy: Policy, take: Take, first: bool) -> dict[str, Tensor]:
    """The weights that transformers writes, on the first rank: of a model with adapters, only those."""
    named = policy.model.state_dict()
    if has_adapters(policy.model):
        named = {name: x for name, x in named.items() if name in policy.parameters}
    return _on_first(named, take, first)


def _on_first(tensors: Tensors, take: Take, first: bool) -> dict[str, Tensor]:
    """Whole tensors on the first rank, in CPU memory where they had to be put together, and nothing on the others."""
    out = take({name: x for name, x in tensors.items() if not isinstance(x, DTensor)}) if first else {}
    for name, tensor in tensors.items():
        if isinstance(tensor, DTensor):
            together = whole(tensor)
            if first:
                out[name] = together.cpu()
    return out
