"""`sieverl train`: train a model from a recipe."""

from __future__ import annotations

import argparse
import os
import signal
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sieverl.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from sieverl.launch.work import Launcher
    from sieverl.recipe import Recipe

ABOUT = "train a model from a recipe"
Resume = Literal["auto", "never", "must"]
RAY_OPTIONS = ("workers", "address", "max_failures")
LAUNCHERS_HELP = "who starts the ranks: here (this process, or torchrun around it) or ray; default: here"
DISPLAYS = ("auto", "rich", "plain", "json", "none")
DISPLAY_HELP = (
    "rich: a live view; plain: a line a step; json: the rows of metrics as JSON lines; none: errors alone; default: "
    "auto, which is rich on a terminal and plain elsewhere"
)
SHORTCUTS = ("run_dir", "algorithm", "steps", "seed", "dtype")  # keys of the recipe that are options of their own


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What `train` and `demo` have in common. `overrides` are `--dotted.key value` arguments, as they came."""

    resume: Resume
    display: str
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
    launcher: str
    workers: int | None
    address: str | None
    max_failures: int | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `sieverl train`."""
    parser.add_argument("recipe", metavar="RECIPE", help="a TOML file, or a name of `sieverl recipes`")
    parser.add_argument("--launcher", choices=tuple(LAUNCHERS), default="here", help=LAUNCHERS_HELP)
    ray = parser.add_argument_group("with --launcher ray")
    ray.add_argument("--workers", type=int, metavar="N", help="ranks, each with a GPU where there are some; default: 1")
    ray.add_argument("--address", metavar="HOST:PORT", help="a Ray cluster, or auto; default: a local one, started")
    ray.add_argument("--max-failures", type=int, metavar="N", help="restarts from the last checkpoint; default: 3")
    add_run_arguments(parser)


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of every command that trains."""
    vars(parser)["takes_recipe"] = True
    parser.add_argument("--resume", choices=("auto", "never", "must"), default="auto", help="default: auto")
    parser.add_argument("--display", choices=DISPLAYS, default="auto", help=DISPLAY_HELP)
    parser.add_argument(
        "--run-dir",
        metavar="DIR",
        help="where the run is kept; default: run_dir of the recipe, else runs/NAME of its file",
    )
    for key, what in (("algorithm", "NAME"), ("steps", "N"), ("seed", "N"), ("dtype", "NAME")):
        parser.add_argument(f"--{key}", metavar=what)


def run(options: Options) -> ExitCode:
    """Train the recipe."""
    from sieverl.recipe import load
    from sieverl.recipe.shipped import find

    recipe = load(options.recipe, options.changes())
    if "run_dir" not in recipe.model_fields_set:
        recipe = recipe.model_copy(update={"run_dir": f"runs/{find(options.recipe).stem}"})
    return train_recipe(recipe, options.resume, options.display, LAUNCHERS[options.launcher](options))


def _here(options: Options) -> None:
    """This process, with the ranks that torchrun gave it."""
    for option in RAY_OPTIONS:
        if getattr(options, option) is not None:
            raise UsageError(f"--{option.replace('_', '-')} goes with --launcher ray; torchrun has options of its own")


def _ray(options: Options) -> Launcher:
    """The ranks of Ray Train."""
    from sieverl.launch.ray import RayLauncher

    given = {option: value for option in RAY_OPTIONS if (value := getattr(options, option)) is not None}
    return RayLauncher(**given)


LAUNCHERS: dict[str, Callable[[Options], Launcher | None]] = {"here": _here, "ray": _ray}


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


def train_recipe(
    recipe: Recipe,
    resume: Resume,
    display: str = "auto",
    launch: Launcher | None = None,
    ending: Callable[[Path, Console], None] | None = None,
) -> ExitCode:
    """Train, show the progress and what came of it; `launch` starts the ranks, `ending` prints more at the end."""
    from sieverl.commands import report
    from sieverl.commands.screen import Screen
    from sieverl.display import plot
    from sieverl.display.console import summary
    from sieverl.launch.work import work

    quiet = os.environ.get("RANK", "0") != "0"  # of the ranks, the first one speaks
    with closing(Screen(recipe, "none" if quiet else display)) as screen:
        outcome = (launch or work)(recipe, resume, screen)
    if outcome.signal is not None:
        screen.say(f"stopped after step {outcome.step}, saved; the same command resumes from here")
        return ExitCode.INTERRUPTED if outcome.signal == signal.SIGINT else ExitCode.PREEMPTED
    run_dir = Path(recipe.run_dir)
    if outcome.rank == 0 and run_dir.is_dir():  # a cluster may have kept it where this machine does not see it
        summary(run_dir, screen.console)
        picture, page = plot.curve(run_dir), report.at_the_end(run_dir)
        if ending:
            ending(run_dir, screen.console)
        where = f"run directory: {run_dir}\npicture:       {picture}\nreport:        {page}"
        screen.console.print(where, highlight=False)
    return ExitCode.DONE
