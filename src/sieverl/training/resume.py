"""What a run directory already holds: the run to resume, another one that is refused, or one that is set aside."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from sieverl.engines.registry import OPTIONS
from sieverl.errors import CheckpointError, DataError, UsageError
from sieverl.files import make_folder, move, remove, storing, write_text
from sieverl.recipe import Recipe, load, to_toml
from sieverl.run_dir import manifest
from sieverl.run_dir.lock import NAME as LOCK
from sieverl.run_dir.lock import Lock
from sieverl.run_dir.metrics import MetricsLog
from sieverl.training import checkpoint
from sieverl.training.prompts import Say
from sieverl.training.state import Run

Resume = Literal["auto", "never", "must"]
MAY_CHANGE = ("steps", "run_dir", "checkpoint", "alarms", "distributed", "trackers")  # that a resumed run may change
SIZES = {"rollout": (*OPTIONS, "max_num_seqs"), "train": ("micro_batch_tokens",)}
"""Keys that say where and in what parts work is done: a resumed run may change them, too."""


def checkpoint_to_resume(recipe: Recipe, resume: Resume, say: Say) -> Path | None:
    """The newest whole checkpoint of the recipe's run, or None for a new run; `say` is told of damaged ones.

    Raises a UsageError when the directory holds a run of another recipe, a CheckpointError when `resume` is `must` and
    there is none, or when all are damaged.
    """
    run_dir = Path(recipe.run_dir)
    if resume != "never" and run_dir.exists():
        _check_same_recipe(recipe, run_dir)
        return manifest.newest(run_dir / "checkpoints", resume == "must", say)
    if resume == "must":
        raise CheckpointError(f"there is no run in {run_dir}, and --resume must asks for one")
    return None


def _check_same_recipe(recipe: Recipe, run_dir: Path) -> None:
    """A run directory holds one run: another recipe there is refused, key by key, once a step was made."""
    if _has_steps(run_dir) and (different := _difference(recipe, run_dir)):
        name, old, new = different
        raise UsageError(
            f"{run_dir} holds a run with {name} = {old!r}, not {new!r}; use another --run-dir, or --resume never to "
            "set the old one aside"
        )


def _difference(recipe: Recipe, run_dir: Path) -> tuple[str, object, object] | None:
    """The first key that the recipe in a run directory has otherwise, with its value there and here."""
    if not (run_dir / "recipe.toml").is_file():
        return None
    before, now = load(run_dir / "recipe.toml").model_dump(), recipe.model_dump()
    before["verify"].pop("graded"), now["verify"].pop("graded")  # compared with what was trained: check_same_grades
    for table, keys in SIZES.items():
        for key in keys:
            before[table].pop(key), now[table].pop(key)
    for key in now:
        if key in MAY_CHANGE or before[key] == now[key]:
            continue
        if not isinstance(now[key], dict):
            return key, before[key], now[key]
        inner = next(k for k in {**now[key], **before[key]} if before[key].get(k) != now[key].get(k))
        return f"{key}.{inner}", before[key].get(inner), now[key].get(inner)
    return None


def _has_steps(run_dir: Path) -> bool:
    """Whether a run got anywhere there: a checkpoint, even a damaged one, or a step in its metrics."""
    made = any(row["step"] > 0 for row in MetricsLog(run_dir / "metrics.jsonl").rows())
    return made or bool(manifest.steps(run_dir / "checkpoints"))


def check_same_grades(run: Run) -> None:
    """What rewards mean must not change within a run."""
    before, now = run.state.graded, run.declared_graded
    if run.pool.verifier.graded is None and None not in (before, now) and before != now:
        took, says = ("as they are" if graded else "as right or wrong" for graded in (before, now))
        raise UsageError(
            f"{run.run_dir} was trained with rewards taken {took}, and verify.graded (or the function) now says "
            f"{says}; use another --run-dir, or --resume never to set the old one aside"
        )


def open_run_dir(recipe: Recipe, resume: Resume, found: Path | None, lock: Lock, say: Say) -> None:
    """Make the directory, set an old run aside when asked to, forget metrics after the checkpoint `found`.

    `lock` has the directory if it was there. Raises a UsageError if another run was made in it since `found` was looked
    for, a StorageError where the disk does not take it.
    """
    run_dir = Path(recipe.run_dir)
    with storing("the run directory", run_dir):
        if resume == "never" and run_dir.exists() and any(p.name != LOCK for p in run_dir.iterdir()):
            lock.close()
            move(run_dir, _aside(run_dir))
        if not lock.held:  # the directory is new, unless another run was quicker
            make_folder(run_dir)
            lock.take(run_dir)
            if _has_steps(run_dir):
                raise UsageError(f"another run was made in {run_dir} meanwhile; the same command resumes it")
        if _difference(recipe, run_dir):  # one that made no step: what it logged is not this recipe's
            remove(run_dir / "rollouts")
        write_text(run_dir / "recipe.toml", to_toml(recipe))
        metrics = MetricsLog(run_dir / "metrics.jsonl")
        if damaged := metrics.damaged():
            say(
                f"{metrics.path}: line {', '.join(map(str, damaged))} is damaged and no longer a row; the file as it "
                "was is kept as metrics.damaged.jsonl"
            )
        metrics.rewind(-1 if found is None else manifest.step_of(found))
        if found is not None:
            checkpoint.settle(run_dir / "checkpoints", found)


def _aside(run_dir: Path) -> Path:
    """A name for an old run, which no other has."""
    number = 1
    while (aside := run_dir.with_name(f"{run_dir.name}.old-{number}")).exists():
        number += 1
    return aside


def check_same_data(run: Run, before: dict[str, str]) -> None:
    """The prompts of a resumed run must be those that it began with. Raises a DataError that names the source."""
    now = run.state.data
    for name, digest in before.items():
        if digest and now.get(name) != digest:
            source = {"train": run.recipe.data.source, "heldout": run.recipe.evaluate.source}.get(name, name)
            table = {"train": "data", "heldout": "evaluate"}.get(name, name)
            raise DataError(
                f"{table}.source = {source!r} holds other prompts than when {run.run_dir} was begun: its file has "
                "changed. Put the old one back, or use another --run-dir (or --resume never) for a new run"
            )
