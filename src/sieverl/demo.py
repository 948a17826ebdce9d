"""The demo: the shipped model, real RL, about three minutes on two CPU cores."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel

from sieverl import checkpoint
from sieverl.loop import Run
from sieverl.metrics import read_evaluation
from sieverl.recipe import Recipe, load

RECIPE = Path(__file__).parent / "assets" / "demo.toml"


def recipe(overrides: Mapping[str, Any], resume: str = "auto") -> Recipe:
    """The demo's recipe; without a run directory of the user's, the newest unfinished one or else a new one."""
    changes = dict(overrides)
    if "run_dir" in changes:
        return load(RECIPE, changes)
    made = sorted(Path("runs").glob("demo-*"), key=lambda p: p.stat().st_mtime)
    if made and resume != "never":
        last = load(RECIPE, {**changes, "run_dir": str(made[-1])})
        steps = checkpoint.steps(made[-1] / "checkpoints")
        same = (made[-1] / "recipe.toml").is_file() and load(made[-1] / "recipe.toml") == last
        if same and steps and steps[-1] < last.steps:
            return last
    number = 1
    while (fresh := Path("runs") / f"demo-{number}").exists():
        number += 1
    return load(RECIPE, {**changes, "run_dir": str(fresh)})


def ending(run: Run, console: Console) -> None:
    """One worked response before and after, and what to try next."""
    before, after = (read_evaluation(run.run_dir, step) for step in (0, run.state.step))
    for key in before:
        if key in after and not before[key]["correct"] and after[key]["correct"]:
            for title, row in (("before", before[key]), ("after", after[key])):
                verdict = "[green]right[/]" if row["correct"] else "[red]wrong[/]"
                text = f"[dim]{escape(row['prompt'])} = ?[/]\n{escape(row['response'])}"
                console.print(Panel(text, title=f"{title}: {verdict}", title_align="left", width=60))
            break
    console.print("next:", style="bold")
    for command in (
        "sieverl demo --algorithm grpo",
        "sieverl algorithms reinforce_rej",
        f"sieverl train {run.run_dir}/recipe.toml --run-dir runs/mine --train.lr 1e-4",
    ):
        console.print(f"  .venv/bin/{command}", highlight=False)
