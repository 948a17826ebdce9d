"""The memory that a run finds, against what it surely needs, and the smaller micro-batches of one that ran out."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import psutil
import torch

from sieverl.assets import model_place
from sieverl.distributed.world import World
from sieverl.files import write_text
from sieverl.model.load import choose_device
from sieverl.planning.check import check_memory
from sieverl.recipe import Recipe, load, to_toml
from sieverl.training.prompts import Say
from sieverl.training.resume import Resume
from sieverl.training.state import Run
from sieverl.types import Metrics


def check_fits(recipe: Recipe, world: World) -> None:
    """Raise a UsageError with the arithmetic where the recipe's model cannot be trained in the memory that is free."""
    if not recipe.distributed.check_memory:
        return
    device = choose_device(recipe.model.device)
    alone = device != "cpu"  # a rank has a GPU of its own
    sharing = 1 if alone else min(world.size, int(os.environ.get("LOCAL_WORLD_SIZE", str(world.size))))
    name = "its GPU" if alone else "this machine"
    check_memory(recipe, model_place(recipe.model.path), world.size, sharing, partial(free_bytes, device), name)


def with_halved(recipe: Recipe, resume: Resume, say: Say) -> Recipe:
    """The recipe with the smaller batches of the run that it resumes, if memory ran out there; `say` is told."""
    kept = Path(recipe.run_dir) / "recipe.toml"
    if resume == "never" or not kept.is_file():
        return recipe
    before = load(kept)
    tokens = min(recipe.train.micro_batch_tokens, before.train.micro_batch_tokens)
    sequences = min(recipe.rollout.max_num_seqs, before.rollout.max_num_seqs)
    if tokens < recipe.train.micro_batch_tokens:
        say(f"train.micro_batch_tokens is {tokens}, the smaller value in {kept}")
    if sequences < recipe.rollout.max_num_seqs:
        say(f"rollout.max_num_seqs is {sequences}, the smaller value in {kept}")
    return _with(recipe, tokens, sequences)


def keep_halved(run: Run) -> Metrics:
    """Write smaller batches, to which a step had to go, into the recipe of the run. Every rank must call this."""
    before = run.recipe
    sampled = getattr(run.engine, "max_num_seqs", run.recipe.rollout.max_num_seqs)
    smaller = _with(run.recipe, run.learner.budget.tokens, -run.world.maximum(-sampled))
    if smaller != before:
        run.recipe = smaller
        if run.world.rank == 0:
            write_text(run.run_dir / "recipe.toml", to_toml(run.recipe))
    return {"memory/engine_halved": float(smaller.rollout.max_num_seqs < before.rollout.max_num_seqs)}


def _with(recipe: Recipe, tokens: int, sequences: int) -> Recipe:
    train = recipe.train.model_copy(update={"micro_batch_tokens": tokens})
    rollout = recipe.rollout.model_copy(update={"max_num_seqs": sequences})
    return recipe.model_copy(update={"train": train, "rollout": rollout})


def free_bytes(device: str) -> float:
    """Bytes that are free on a device."""
    if device == "cpu":
        return float(psutil.virtual_memory().available)
    return float(torch.cuda.mem_get_info(torch.device(device))[0])
