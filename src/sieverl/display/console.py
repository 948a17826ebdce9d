"""What the terminal shows during a run and at its end."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from sieverl.recipe import Recipe, load
from sieverl.run_dir.metrics import MetricsLog
from sieverl.types import Metrics, Note

SHORT = 40  # runs of up to this many steps show every step, longer ones every fifth
KEEP = 0.8  # weight of the old value in the running mean of accuracy


class Progress:
    """One line a step; the running mean of accuracy, so that the trend shows through the noise of a batch."""

    def __init__(self, recipe: Recipe, first: int, with_reward: bool, console: Console) -> None:
        self.recipe, self.first, self.with_reward, self.console = recipe, first, with_reward, console
        self.started = time.perf_counter()
        self.accuracy: float | None = None
        self.heldout = f"eval/{recipe.evaluate.name}/avg@{recipe.evaluate.samples}"

    def __call__(self, row: Metrics, notes: Sequence[Note]) -> None:
        step, last = row["step"], self.recipe.steps
        if "reward/accuracy" not in row:  # the evaluation before training
            self._header()
            self._line("start", "", "", "", "", "", self._held(row), "")
            self.started = time.perf_counter()
            return
        if self.accuracy is None and self.first:
            self._header()
        now = row["reward/accuracy"]
        self.accuracy = now if self.accuracy is None else KEEP * self.accuracy + (1 - KEEP) * now
        due = step % (1 if last <= SHORT else 5) == 0 or step <= 3 or step == last or self.heldout in row
        if not due and not any(note.urgent for note in notes):
            return
        left = (time.perf_counter() - self.started) / max(1, step - self.first) * (last - step)
        self._line(
            f"{step:>4}/{last:<4}",
            f"{self.accuracy:.1%}",
            f"{row['reward/mean']:.3f}",
            f"{row['select/kept_fraction']:.0%}",
            f"{row['policy/entropy']:.3f}",
            f"{row['rollout/tokens_per_second']:,.0f}",
            self._held(row),
            f"{left:.0f}s",
        )
        for note in notes:
            self.console.print(f"{'':11}{note.text}", style="yellow", markup=False, highlight=False)

    def _held(self, row: Metrics) -> str:
        return f"{row[self.heldout]:.1%}" if self.heldout in row else ""

    def _header(self) -> None:
        self._line("step", "accuracy", "reward", "kept", "entropy", "tokens/s", "held out", "left", style="bold")

    def _line(self, *cells: str, style: str | None = None) -> None:
        widths = (9, 8, 8, 5, 7, 8, 8, 6)
        shown = [f"{cell:>{width}}" for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
                 if i != 2 or self.with_reward]  # fmt: skip
        self.console.print("  ".join(shown).rstrip(), style=style, highlight=False)


def summary(run_dir: Path, console: Console) -> None:
    """A table of a run's metrics before and after."""
    rows, recipe = MetricsLog(run_dir / "metrics.jsonl").rows(), load(run_dir / "recipe.toml")
    if len(rows) < 2:
        return
    name, k = recipe.evaluate.name, recipe.evaluate.samples
    key = f"eval/{name}/avg@{k}"
    ci, length = f"eval_ci/{name}/avg@{k}", f"eval/{name}/length_mean"
    shown = (key, f"{ci}/low", f"{ci}/high", length)
    evaluated = [r for r in rows if all(r.get(metric) is not None for metric in shown)]
    if not evaluated:
        return
    before, after = evaluated[0], evaluated[-1]
    table = Table(title=f"{recipe.algorithm}, {rows[-1]['step']} steps")
    for column in ("", "before", "after"):
        table.add_column(column, justify="left" if not column else "right")

    def accuracy(row: Metrics) -> str:
        return f"{row[key]:.1%} ({row[f'{ci}/low']:.1%} to {row[f'{ci}/high']:.1%})"

    table.add_row(f"held-out accuracy, avg@{k} (95%)", accuracy(before), accuracy(after))
    table.add_row("mean response length, tokens", *(f"{r[length]:.1f}" for r in (before, after)))
    if after.get(f"eval/{name}/kl_ref") is not None:
        table.add_row("KL to the reference policy, nats a token", "0", f"{after[f'eval/{name}/kl_ref']:.4f}")
    trained = [r for r in rows if None not in (r.get("policy/entropy"), r.get("select/kept_fraction"))]
    if trained:
        table.add_row("entropy, nats a token", *(f"{r['policy/entropy']:.3f}" for r in (trained[0], trained[-1])))
        kept = sum(r["select/kept_fraction"] for r in trained) / len(trained)
        table.add_row("responses kept", "", f"{kept:.0%}")
    console.print(table)
