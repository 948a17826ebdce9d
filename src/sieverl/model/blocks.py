"""The decoder blocks of a model: what is sharded as one, and what is computed again in the backward."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from types import MethodType

import torch
from torch.utils.checkpoint import checkpoint

from sieverl.errors import UsageError
from sieverl.model.types import CausalModel

Context = contextlib.AbstractContextManager[None]


def block_names(model: CausalModel) -> frozenset[str]:
    """The classes of the decoder blocks of `model`, as transformers names them; empty where it names none."""
    return frozenset(getattr(model, "_no_split_modules", None) or ())


def recompute(model: CausalModel, context: Callable[[str], Context]) -> None:
    """Activation checkpointing (arXiv:1604.06174): the backward computes each decoder block a second time.

    Of a block only its inputs are kept. `context(path)` is entered for the second time, with the path of the block.
    Without gradients nothing changes. Raises a UsageError for a model that names no blocks.
    """
    names = block_names(model)
    blocks = [(path, module) for path, module in model.named_modules() if type(module).__name__ in names]
    if not blocks:
        raise UsageError(
            f"{type(model).__name__} names no decoder blocks, so distributed.activation_checkpointing has nothing to "
            "compute again; leave it out"
        )
    for path, module in blocks:
        module.forward = MethodType(_forward(path, context), module)


def _forward(path: str, context: Callable[[str], Context]) -> Callable[..., object]:
    def forward(self: torch.nn.Module, *args: object, **kwargs: object) -> object:
        once = MethodType(type(self).forward, self)
        if not torch.is_grad_enabled():
            return once(*args, **kwargs)
        return checkpoint(
            partial(once, **kwargs),
            *args,
            use_reentrant=False,
            preserve_rng_state=False,  # dropout is off
            context_fn=lambda: (contextlib.nullcontext(), context(path)),
        )

    return forward
