"""The function that Ray Train runs on every rank, inside the process group that it made."""

from __future__ import annotations

import os
import tomllib
from typing import Any

from sieverl.errors import EngineError, SieveRLError
from sieverl.launch.board import Attempt, Silent, Speaker
from sieverl.launch.work import work
from sieverl.recipe import build
from sieverl.training.resume import Resume


def run_rank(config: dict[str, Any]) -> None:
    """`config` has the recipe as TOML, `resume`, `folder` (where the command was started) and `board`, an actor.

    An error with a message for people ends the run: it goes to the board, and Ray ends the other ranks, which may wait
    for this one. Anything else that fails, an engine too, is tried again by Ray from the last checkpoint.
    """
    import ray
    from ray.train import get_context

    board, rank = config["board"], get_context().get_world_rank()
    attempt: Attempt = ray.get(board.attempt.remote(rank))
    if attempt.end is not None:
        return
    if os.path.isdir(config["folder"]):  # relative paths of the recipe start there
        os.chdir(config["folder"])
    watcher = Speaker(ray, board) if rank == 0 else Silent()
    if attempt.number > 1:
        watcher.say(f"a rank was lost; start {attempt.number}, from the last checkpoint")
    try:
        recipe = build(tomllib.loads(config["recipe"]))
        outcome = work(recipe, resume_again(config["resume"], attempt), watcher, watcher.stopping)
    except EngineError:
        raise
    except SieveRLError as error:
        ray.get(board.end.remote(error))
        raise
    if rank == 0:
        ray.get(board.end.remote(outcome))


def resume_again(resume: Resume, attempt: Attempt) -> Resume:
    """`never` and `must` speak of the run that was there before the command, not of its own checkpoints."""
    return "auto" if attempt.opened else resume
