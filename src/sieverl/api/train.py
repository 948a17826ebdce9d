"""`sieverl.train`: a run from a program or a notebook, with rewards, algorithms and prompts that it has in memory."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sieverl.algorithms.algorithm import Algorithm
from sieverl.api.given import Reward, name_of, spec_of
from sieverl.api.saved import TrainedRun, load_run
from sieverl.commands.train import train_recipe
from sieverl.data.catalog import ANSWER_COLUMNS
from sieverl.data.rows import column_value
from sieverl.errors import ExitCode, UsageError
from sieverl.files import make_folder, write_text
from sieverl.launch.work import Outcome, Start, Watcher, work
from sieverl.recipe import Recipe, build
from sieverl.recipe.load import merge, read
from sieverl.recipe.shipped import run_dir_of
from sieverl.training.resume import Resume
from sieverl.training.signals import stop_requests
from sieverl.types import JsonObject, Metrics, Note
from sieverl.verify.process import MARK, to_json

Callback = Callable[[Metrics], object]
MAIN_KEYS = {"model": "path", "data": "source", "evaluate": "source", "verify": "name"}
"""The key of a table that a value other than a table sets: `model="org/name"` is `model={"path": "org/name"}`."""


def train(
    recipe: str | Path | Sequence[str | Path] | Mapping[str, object] | Recipe | None = None,
    *,
    reward: Reward | Sequence[Reward] | None = None,
    reward_weights: Sequence[float] | None = None,
    callbacks: Sequence[Callback] = (),
    trackers: Any = (),
    resume: Resume = "auto",
    display: str = "auto",
    **keys: Any,
) -> TrainedRun:
    """Train, and return the run.

    `recipe` is a TOML file or several, a `Recipe`, or nested tables; `keys` go on top: tables as dictionaries, keys
    without a table as they are, and `model`, `data`, `evaluate` and `verify` also as the one value that matters most.
    `algorithm` may be a `sieverl.Algorithm`, and `data` rows in memory: a list of dictionaries, a data frame, a
    `datasets.Dataset`. They are written beside the run directory, so that the run can be resumed.

    `reward` is a function `(response, row) -> float`, one with TRL's signature, a name such as "math" or FILE.py:NAME,
    or a list of these, which are summed with `reward_weights`. A function of the program itself is called in a fork of
    it, with the time and memory of [verify]: it sees variables as they were, and changes none.

    Each of `callbacks` gets the rows of metrics as they come, on rank 0; one that returns True has the run saved and
    stopped. The same call goes on from there. `trackers` are names ("wandb"), functions of a row, objects with
    `log(entry)` (docs/trackers.md), or the table of the recipe. `resume` and `display` are those of `sieverl train`.

    Raises a UsageError, DataError or CheckpointError for what cannot work, an Alarm where the run stopped itself, and
    KeyboardInterrupt, once all is saved, where it was interrupted.

    >>> import sieverl
    >>> def short(response, row):
    ...     return float(len(response) <= 4)
    >>> run = sieverl.train(  # doctest: +SKIP
    ...     model="Qwen/Qwen2.5-0.5B-Instruct", data=[{"prompt": "Say hello."}], reward=short, steps=10
    ... )
    >>> run.metrics["reward/mean"]  # doctest: +SKIP
    """
    if MARK in os.environ:
        raise UsageError(
            "sieverl.train was called while the file was imported for its reward function; put the call under "
            'if __name__ == "__main__":'
        )
    if reward is not None:
        keys["verify"] = {**_table("verify", keys.get("verify", {})), **spec_of(reward, reward_weights)}
    elif reward_weights is not None:
        raise UsageError("reward_weights weigh a list of rewards; give reward=[...] too")
    table, objects = split_trackers(trackers)
    chosen = resolve(recipe, {**keys, **({"trackers": table} if table else {})})
    watched = Watched(callbacks, objects)
    code = train_recipe(chosen, resume, display, watched.launch)
    if code == ExitCode.INTERRUPTED:
        raise KeyboardInterrupt(f"the run is saved in {chosen.run_dir}; the same call goes on from there")
    return load_run(chosen.run_dir)


def resolve(recipe: Any, keys: Mapping[str, Any]) -> Recipe:
    """The recipe with the keywords on top; rows in memory are written to a file."""
    tables = _tables(recipe)
    run_dir = Path(str(keys.get("run_dir") or tables.get("run_dir") or _run_dir(recipe)))
    above: JsonObject = {"run_dir": str(run_dir)}
    for key, value in keys.items():
        if key == "algorithm" and isinstance(value, Algorithm):
            above[key] = name_of(value, "algorithm")
        elif key in MAIN_KEYS:
            above[key] = _table(key, value, run_dir)
        elif "." in key:
            table, _, inner = key.partition(".")
            above = merge(above, {table: _nested(inner, value)})
        else:
            above[key] = value
    return build(merge(tables, above), where="sieverl.train")


def _tables(recipe: Any) -> JsonObject:
    """What was given for a recipe, as nested tables."""
    if recipe is None:
        return {}
    if isinstance(recipe, Recipe):
        return recipe.model_dump(exclude_unset=True)
    if isinstance(recipe, Mapping):
        return dict(recipe)
    merged: JsonObject = {}
    for path in [recipe] if isinstance(recipe, str | Path) else recipe:
        merged = merge(merged, read(path))
    return merged


def _run_dir(recipe: Any) -> str:
    """Where a run is kept that names no directory: as `sieverl train` does it."""
    paths = [recipe] if isinstance(recipe, str | Path) else recipe
    if not paths or isinstance(paths, Recipe | Mapping):
        return str(Recipe.model_fields["run_dir"].default)
    return run_dir_of(paths)


def _table(name: str, value: Any, run_dir: Path = Path()) -> JsonObject:
    """A table of the recipe from a dictionary, from the value of its main key, or from rows in memory."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, str | Path):
        return {MAIN_KEYS[name]: str(value)}
    if name in ("data", "evaluate") and (rows := rows_of(value)) is not None:
        none = not any(column_value(row, column) is not None for row in rows for column in ANSWER_COLUMNS)
        return {"source": str(write_rows(rows, run_dir, name)), **({"columns": {"answer": ""}} if none else {})}
    raise UsageError(f"{name} is a {type(value).__name__}; give a table as a dictionary, or {MAIN_KEYS[name]} as text")


def _nested(dotted: str, value: object) -> JsonObject:
    """`{"a": {"b": value}}` for the key `a.b`."""
    for part in reversed(dotted.split(".")):
        value = {part: value}
    assert isinstance(value, dict)
    return value


def rows_of(value: Any) -> list[Mapping[str, object]] | None:
    """The rows of a list, a data frame or a `datasets.Dataset`; None for anything else.

    >>> rows_of([{"prompt": "1+1", "answer": "2"}]), rows_of(3)
    ([{'prompt': '1+1', 'answer': '2'}], None)
    """
    if hasattr(value, "to_dict") and hasattr(value, "columns"):
        value = value.to_dict("records")
    elif hasattr(value, "to_list"):
        value = value.to_list()
    if not isinstance(value, list | tuple) or not all(isinstance(row, Mapping) for row in value):
        return None
    return list(value)


def write_rows(rows: Sequence[Mapping[str, object]], run_dir: Path, name: str) -> Path:
    """The file of rows beside a run directory; other rows go to another file, so that a run keeps those it has."""
    text = "".join(json.dumps(row, default=to_json) + "\n" for row in rows)
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    path = run_dir.with_name(f"{run_dir.name}.{name}-{digest}.jsonl")
    if not path.is_file():
        make_folder(path.parent)
        write_text(path, text)
    return path


def split_trackers(trackers: Any) -> tuple[JsonObject, list[Any]]:
    """The [trackers] table of what names trackers, and those that are Python objects.

    >>> split_trackers("wandb"), split_trackers(["mlflow", print])
    (({'use': ['wandb']}, []), ({'use': ['mlflow']}, [<built-in function print>]))
    """
    if isinstance(trackers, Mapping):
        return dict(trackers), []
    each = list(trackers) if isinstance(trackers, list | tuple) else [trackers]
    names = [one for one in each if isinstance(one, str)]
    return ({"use": names} if names else {}), [one for one in each if not isinstance(one, str)]


@dataclass
class Watched:
    """Starts a run as `sieverl train` does, and shows its rows to functions and trackers of the program too."""

    callbacks: Sequence[Callback]
    trackers: Sequence[Any] = ()

    def launch(self, recipe: Recipe, resume: Resume, watcher: Watcher) -> Outcome:
        """A `Launcher`."""
        asked: list[int] = []

        @contextmanager
        def stopping() -> Iterator[Sequence[int]]:
            with stop_requests() as requested:
                yield Joined(requested, asked)

        return work(recipe, resume, WithCallbacks(watcher, self.callbacks, asked), stopping, self.trackers)


@dataclass(frozen=True)
class WithCallbacks:
    """A `Watcher` that shows rows to functions too; one that returns True asks the run to stop."""

    watcher: Watcher
    callbacks: Sequence[Callback]
    asked: list[int]

    def say(self, text: str) -> None:
        """A line for people."""
        self.watcher.say(text)

    def started(self, start: Start) -> None:
        """Training begins."""
        self.watcher.started(start)

    def row(self, row: Metrics, notes: Sequence[Note]) -> None:
        """A row of metrics."""
        self.watcher.row(row, notes)
        for callback in self.callbacks:
            if callback(dict(row)) is True:
                self.asked.append(signal.SIGTERM)


class Joined(Sequence[int]):
    """Two lists that grow, as one."""

    def __init__(self, *lists: Sequence[int]) -> None:
        self.lists = lists

    def __len__(self) -> int:
        return sum(map(len, self.lists))

    def __getitem__(self, index: Any) -> Any:
        return [number for numbers in self.lists for number in numbers][index]
