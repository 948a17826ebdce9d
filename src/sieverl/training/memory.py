"""The memory that a run finds, against what it surely needs, and the smaller micro-batches of one that ran out."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import psutil
import torch

from sieverl.assets import BASE
from sieverl.distributed.world import World
from sieverl.files import write_text
from sieverl.model.load import choose_device
from sieverl.planning.check import check_memory
from sieverl.recipe import Recipe, load, to_toml
from sieverl.training.resume import Resume
from sieverl.training.state import Run


def check_fits(recipe: Recipe, world: World) -> None:
    """Raise a UsageError with the arithmetic where the recipe's model cannot be trained in the memory that is free."""
    if not recipe.distributed.check_memory:
        return
    device = choose_device(recipe.model.device)
    alone = device != "cpu"  # a rank has a GPU of its own
    sharing = 1 if alone else min(world.size, int(os.environ.get("LOCAL_WORLD_SIZE", str(world.size))))
    name = "its GPU" if alone else "this machine"
    check_memory(recipe, recipe.model.path or str(BASE), world.size, sharing, partial(free_bytes, device), name)


def with_halved(recipe: Recipe, resume: Resume) -> Recipe:
    """The recipe with the smaller micro-batches of the run that it resumes, if memory ran out there."""
    kept = Path(recipe.run_dir) / "recipe.toml"
    if resume == "never" or not kept.is_file():
        return recipe
    return _with_tokens(recipe, min(recipe.train.micro_batch_tokens, load(kept).train.micro_batch_tokens))


def keep_halved(run: Run) -> None:
    """Write smaller micro-batches, to which a step had to go, into the recipe of the run."""
    if run.learner.budget.tokens != run.recipe.train.micro_batch_tokens:
        run.recipe = _with_tokens(run.recipe, run.learner.budget.tokens)
        if run.world.rank == 0:
            write_text(run.run_dir / "recipe.toml", to_toml(run.recipe))


def _with_tokens(recipe: Recipe, tokens: int) -> Recipe:
    return recipe.model_copy(update={"train": recipe.train.model_copy(update={"micro_batch_tokens": tokens})})


def free_bytes(device: str) -> float:
    """Bytes that are free on a device."""
    if device == "cpu":
        return float(psutil.virtual_memory().available)
    return float(torch.cuda.mem_get_info(torch.device(device))[0])
