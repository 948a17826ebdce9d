"""`sieverl demo`: the shipped model, real RL, about three minutes on two CPU cores."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sieverl.assets import RECIPE
from sieverl.commands.dry_run import check_recipe
from sieverl.commands.keys import KEYS_USAGE
from sieverl.commands.train import RunOptions, add_run_arguments, train_recipe
from sieverl.errors import ExitCode
from sieverl.options import parse_keys

if TYPE_CHECKING:
    from rich.console import Console

    from sieverl.recipe import Overrides, Recipe


@dataclass(frozen=True, kw_only=True)
class Options(RunOptions):
    """The options of `sieverl demo`."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `sieverl demo`."""
    parser.usage = f"{parser.prog} {KEYS_USAGE}"
    add_run_arguments(parser)


def run(options: Options) -> ExitCode:
    """Train the demo's recipe; at the end, show a response before and after."""
    chosen = recipe(parse_keys(options.overrides), options.resume, os.environ)
    if options.dry_run:
        return check_recipe(chosen, options.resume)
    return train_recipe(chosen, options.resume, options.display, ending=ending)


def recipe(overrides: Overrides, resume: str = "auto", environment: Mapping[str, str] | None = None) -> Recipe:
    """The demo's recipe, changed; without a run directory given, the newest unfinished one or else a new one."""
    from sieverl.recipe import load
    from sieverl.run_dir import manifest

    changes = dict(overrides)
    whole = load(RECIPE, changes, environment)
    if "run_dir" in whole.model_fields_set:
        return whole
    made = sorted(Path("runs").glob("demo-*"), key=lambda p: p.stat().st_mtime)
    if made and resume != "never":
        last = load(RECIPE, {**changes, "run_dir": str(made[-1])}, environment)
        steps = manifest.steps(made[-1] / "checkpoints")
        same = (made[-1] / "recipe.toml").is_file() and load(made[-1] / "recipe.toml") == last
        if same and steps and steps[-1] < last.steps:
            return last
    number = 1
    while (fresh := Path("runs") / f"demo-{number}").exists():
        number += 1
    return load(RECIPE, {**changes, "run_dir": str(fresh)}, environment)


def called(argument: str | None = None) -> str:
    """How the command was called, so that what it names can be typed: `sieverl`, with its path, or by Python.

    >>> called("/opt/there/.venv/bin/sieverl"), called("/opt/there/sieverl/__main__.py"), called("pytest")
    ('/opt/there/.venv/bin/sieverl', 'python -m sieverl', 'sieverl')
    """
    name = sys.argv[0] if argument is None else argument
    if Path(name).name == "__main__.py":
        return "python -m sieverl"
    if Path(name).name != "sieverl" or shutil.which("sieverl") == name:
        return "sieverl"
    return os.path.relpath(name) if Path(name).is_relative_to(Path.cwd()) else name


def ending(run_dir: Path, console: Console) -> None:
    """One worked response before and after, and what to try next."""
    from rich.panel import Panel
    from rich.text import Text

    from sieverl.run_dir import manifest
    from sieverl.run_dir.rollouts import read_evaluation
    from sieverl.text import printable

    last = manifest.steps(run_dir / "checkpoints")[-1]
    before, after = (read_evaluation(run_dir, step) for step in (0, last))
    for key in before:
        if key in after and not before[key].correct and after[key].correct:
            for title, row in (("before", before[key]), ("after", after[key])):
                verdict = ("right", "green") if row.correct else ("wrong", "red")
                text = Text.assemble((f"{printable(row.prompt)} = ?", "dim"), "\n", printable(row.response))
                console.print(Panel(text, title=Text.assemble(f"{title}: ", verdict), title_align="left", width=60))
            break
    console.print("next:", style="bold")
    for command in (
        f"view {run_dir}",
        "demo --algorithm grpo",
        "algorithms reinforce_rej",
        f"train {run_dir}/recipe.toml --run-dir runs/mine --train.lr 1e-4",
    ):
        console.print(f"  {called()} {command}", highlight=False)
