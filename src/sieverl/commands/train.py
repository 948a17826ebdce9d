"""`sieverl train`: train a model from a recipe."""

from __future__ import annotations

import argparse
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sieverl.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from sieverl.recipe import Recipe

ABOUT = "train a model from a recipe"
Resume = Literal["auto", "never", "must"]
SHORTCUTS = ("run_dir", "algorithm", "steps", "seed", "dtype")  # keys of the recipe that are options of their own


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What `train` and `demo` have in common. `overrides` are `--dotted.key value` arguments, as they came."""

    resume: Resume
    overrides: Sequence[str]
    run_dir: str | None
    algorithm: str | None
    steps: str | None
    seed: str | None
    dtype: str | None

    def changes(self) -> dict[str, str]:
        """What the command line changes in the recipe: dotted key -> value."""
        shortcuts = {key: value for key in SHORTCUTS if (value := getattr(self, key)) is not None}
        return parse_overrides(self.overrides) | shortcuts


@dataclass(frozen=True, kw_only=True)
class Options(RunOptions):
    """The options of `sieverl train`."""

    recipe: str
    overrides: Sequence[str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `sieverl train`."""
    parser.add_argument("recipe", metavar="RECIPE.toml")
    add_run_arguments(parser)


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of every command that trains."""
    vars(parser)["takes_recipe"] = True
    parser.add_argument("--resume", choices=("auto", "never", "must"), default="auto", help="default: auto")
    parser.add_argument("--run-dir", metavar="DIR", help="where the run is kept")
    for key, what in (("algorithm", "NAME"), ("steps", "N"), ("seed", "N"), ("dtype", "NAME")):
        parser.add_argument(f"--{key}", metavar=what)


def run(options: Options) -> ExitCode:
    """Train the recipe."""
    from sieverl.recipe import load

    changes = {"run_dir": f"runs/{Path(options.recipe).stem}", **options.changes()}
    return train_recipe(load(options.recipe, changes), options.resume)


def parse_overrides(arguments: Sequence[str]) -> dict[str, str]:
    """Dotted overrides in order: `--key value` and `--key=value`. Raises a UsageError for anything else.

    >>> parse_overrides(["--train.lr", "1e-5", "--rollout.samples=8"])
    {'train.lr': '1e-5', 'rollout.samples': '8'}
    """
    found: dict[str, str] = {}
    rest = list(arguments)
    while rest:
        option = rest.pop(0)
        if not option.startswith("--"):
            raise UsageError(f"unexpected argument {option!r}; options are --dotted.key value")
        key, equals, value = option[2:].partition("=")
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise UsageError(f"{option} has no value; write {option} VALUE")
            value = rest.pop(0)
        found[key] = value
    return found


def train_recipe(recipe: Recipe, resume: Resume, ending: Callable[[Path, Console], None] | None = None) -> ExitCode:
    """Train, show the progress and what came of it; `ending` prints more at the end."""
    from rich.console import Console

    from sieverl.display import plot
    from sieverl.display.console import Progress, summary
    from sieverl.training.loop import train
    from sieverl.training.setup import prepare
    from sieverl.training.signals import Preempted

    console = Console(soft_wrap=True, quiet=os.environ.get("RANK", "0") != "0")  # of the ranks, the first one speaks
    run = prepare(recipe, resume, say=lambda text: console.print(text, highlight=False))
    if run.state.step >= recipe.steps and run.metrics.rows():
        console.print(f"{run.run_dir} is at step {run.state.step} of {recipe.steps}: nothing is left to do")
    first = run.world.rank == 0
    with run:
        try:
            train(run, Progress(recipe, run.state.step, run.declared_graded is not False, console))
        except Preempted as stopped:
            console.print(f"stopped after step {run.state.step}, saved; the same command resumes from here")
            return ExitCode.INTERRUPTED if stopped.signal == signal.SIGINT else ExitCode.PREEMPTED
    if first:
        summary(run.run_dir, console)
        picture = plot.curve(run.run_dir)
        if ending:
            ending(run.run_dir, console)
        console.print(f"run directory: {run.run_dir}\npicture:       {picture}", highlight=False)
    return ExitCode.DONE
