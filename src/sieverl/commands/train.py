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

from sieverl.commands.dry_run import check_recipe
from sieverl.commands.keys import KEYS_USAGE, RECIPE_HELP, add_keys
from sieverl.errors import ExitCode, UsageError
from sieverl.options import parse_keys

if TYPE_CHECKING:
    from rich.console import Console

    from sieverl.launch.work import Launcher
    from sieverl.recipe import Recipe

Resume = Literal["auto", "never", "must"]
RAY_OPTIONS = ("workers", "address", "max_failures")
LAUNCHERS_HELP = "who starts the ranks: here (this process, or torchrun around it) or ray; default: here"
RESUME_HELP = "go on from the checkpoint in the run directory: if there is one, never, or fail without; default: auto"
DRY_RUN_HELP = (
    "check everything but the weights; print the resolved recipe as TOML, with the first prompt, its tokens and the "
    "memory of a rank as comments"
)
DISPLAYS = ("auto", "rich", "plain", "json", "none")
DISPLAY_HELP = (
    "rich: a live view; plain: a line a step; json: the rows of metrics as JSON lines; none: errors alone; default: "
    "auto, which is rich on a terminal and plain elsewhere"
)


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What `train` and `demo` have in common. `overrides` are keys of the recipe, as `--key=value`."""

    resume: Resume
    display: str
    dry_run: bool
    overrides: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Options(RunOptions):
    """The options of `sieverl train`."""

    recipe: Sequence[str]
    launcher: str
    workers: int | None
    address: str | None
    max_failures: int | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `sieverl train`."""
    parser.usage = f"{parser.prog} RECIPE.toml [RECIPE.toml ...] {KEYS_USAGE}"
    parser.add_argument("recipe", nargs="+", metavar="RECIPE.toml", help=RECIPE_HELP)
    parser.add_argument("--launcher", choices=tuple(LAUNCHERS), default="here", help=LAUNCHERS_HELP)
    ray = parser.add_argument_group("with --launcher ray")
    ray.add_argument("--workers", type=int, metavar="N", help="ranks, each with a GPU where there are some; default: 1")
    ray.add_argument("--address", metavar="HOST:PORT", help="a Ray cluster, or auto; default: a local one, started")
    ray.add_argument("--max-failures", type=int, metavar="N", help="restarts from the last checkpoint; default: 3")
    add_run_arguments(parser)


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of every command that trains."""
    parser.add_argument("--resume", choices=("auto", "never", "must"), default="auto", help=RESUME_HELP)
    parser.add_argument("--dry-run", action="store_true", help=DRY_RUN_HELP)
    parser.add_argument("--display", choices=DISPLAYS, default="auto", help=DISPLAY_HELP)
    add_keys(parser)


def run(options: Options) -> ExitCode:
    """Train the recipe."""
    from sieverl.recipe import load
    from sieverl.recipe.shipped import run_dir_of

    recipe = load(options.recipe, parse_keys(options.overrides), os.environ)
    if "run_dir" not in recipe.model_fields_set:
        recipe = recipe.model_copy(update={"run_dir": run_dir_of(options.recipe)})
    launch = LAUNCHERS[options.launcher](options)
    if options.dry_run:
        return check_recipe(recipe, options.resume)
    return train_recipe(recipe, options.resume, options.display, launch)


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
