"""The memory that a run finds, against what it surely needs: asked before anything loads."""

from __future__ import annotations

import os
from functools import partial

import psutil
import torch

from sieverl.assets import BASE
from sieverl.distributed.world import World
from sieverl.model.load import choose_device
from sieverl.planning.check import check_memory
from sieverl.recipe import Recipe


def check_fits(recipe: Recipe, world: World) -> None:
    """Raise a UsageError with the arithmetic where the recipe's model cannot be trained in the memory that is free."""
    if not recipe.distributed.check_memory:
        return
    device = choose_device(recipe.model.device)
    alone = device != "cpu"  # a rank has a GPU of its own
    sharing = 1 if alone else min(world.size, int(os.environ.get("LOCAL_WORLD_SIZE", str(world.size))))
    name = "its GPU" if alone else "this machine"
    check_memory(recipe, recipe.model.path or str(BASE), world.size, sharing, partial(free_bytes, device), name)


def free_bytes(device: str) -> float:
    """Bytes that are free on a device."""
    if device == "cpu":
        return float(psutil.virtual_memory().available)
    return float(torch.cuda.mem_get_info(torch.device(device))[0])
