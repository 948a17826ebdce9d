"""What the terminal shows during a run, a line for a step, and at its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from sieverl.display.said import NoteLines, wrapped
from sieverl.recipe import Recipe, load
from sieverl.run_dir.metrics import MetricsLog
from sieverl.run_dir.rollouts import PART
from sieverl.types import Metrics, Note

SHORT = 40  # runs of up to this many steps show every step, longer ones every fifth
KEEP = 0.8  # weight of the old value in the running mean of accuracy
COLUMNS = {
    "step": 9,
    "accuracy": 8,
    "mean": 6,
    "reward": 7,
    "kept": 4,
    "entropy": 7,
    "tokens/s": 8,
    "held out": 8,
    "left": 5,
}


class Progress:
    """One line a step on `console`; notes go to `log`, by default the same.

    `accuracy` is the step's own, `mean` its running mean over all steps of the run, so that the trend shows through the
    noise of a batch; it goes on over a resume, from the rows `earlier`. `first` is the step that the run starts from.
    """

    def __init__(
        self,
        recipe: Recipe,
        first: int,
        with_reward: bool,
        console: Console,
        log: Console | None = None,
        earlier: Sequence[Metrics] = (),
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.recipe, self.first, self.with_reward, self.console = recipe, first, with_reward, console
        self.notes, self.clock = NoteLines(log or console), clock
        self.started = clock()
        self.mean = running_mean([row for row in earlier if row["step"] <= first])
        self.headed = False
        self.heldout = heldout(recipe)

    def __call__(self, row: Metrics, notes: Sequence[Note]) -> None:
        if not self.headed:
            self._line(*COLUMNS, style="bold")
            self.headed = True
        step, last = row["step"], self.recipe.steps
        if "reward/accuracy" not in row:  # the evaluation before training
            self._line("start", "", "", "", "", "", "", self._held(row), "")
            self.started = self.clock()
            return
        self.mean = running_mean([row], self.mean)
        new = self.notes.due(step, notes)
        due = step % (1 if last <= SHORT else 5) == 0 or step <= 3 or step == last or self.heldout in row
        if not due and not any(urgent for _, urgent in new):
            return
        left = (self.clock() - self.started) / max(1, step - self.first) * (last - step)
        self._line(
            f"{step:>4}/{last:<4}",
            f"{row['reward/accuracy']:.1%}",
            f"{self.mean:.1%}",
            f"{row['reward/mean']:.3f}",
            f"{row['select/kept_fraction']:.0%}",
            f"{row['policy/entropy']:.3f}",
            f"{row['rollout/tokens_per_second']:,.0f}",
            self._held(row),
            duration(left),
        )
        if parts := part_means(row):
            shown = ", ".join(f"{name} {value:.3f}" for name, value in parts.items())
            self.console.print(wrapped(f"reward of {shown}", " " * 11), highlight=False)
        for one, _ in new:
            self.notes.say(one, f"step {step}: ")

    def close(self) -> None:
        """Say how often the notes came whose count was not said yet."""
        self.notes.close()

    def _held(self, row: Metrics) -> str:
        return f"{value:.1%}" if (value := row.get(self.heldout)) is not None else ""

    def _line(self, *cells: str, style: str | None = None) -> None:
        shown = [f"{cell:>{width}}" for cell, (name, width) in zip(cells, COLUMNS.items(), strict=True)
                 if name != "reward" or self.with_reward]  # fmt: skip
        self.console.print("  ".join(shown).rstrip(), style=style, highlight=False)


def heldout(recipe: Recipe) -> str:
    """The metric of the held-out accuracy."""
    return f"eval/{recipe.evaluate.name}/avg@{recipe.evaluate.samples}"


def running_mean(rows: Sequence[Metrics], before: float | None = None) -> float | None:
    """The exponential running mean of accuracy over rows, from the mean `before` them; None without any accuracy.

    >>> running_mean([{"step": 0}, {"step": 1, "reward/accuracy": 0.5}, {"step": 2, "reward/accuracy": 1.0}])
    0.6
    """
    for row in rows:
        now = row.get("reward/accuracy")
        if now is not None:
            before = now if before is None else KEEP * before + (1 - KEEP) * now
    return before


def part_means(row: Metrics) -> dict[str, float]:
    """The means of the parts of a reward, by name.

    >>> part_means({"step": 1, "reward/mean": 0.5, "reward/brief/mean": 0.25})
    {'brief': 0.25}
    """
    names = {name: name.removeprefix(PART).removesuffix("/mean") for name in row if name.startswith(PART)}
    return {
        short: value
        for name, short in names.items()
        if name == f"{PART}{short}/mean" and (value := row[name]) is not None
    }


def duration(seconds: float) -> str:
    """Seconds in at most five characters.

    >>> duration(0), duration(59.6), duration(754), duration(12000), duration(300000)
    ('0s', '60s', '13m', '3h20m', '3d11h')
    """
    minutes, hours = round(seconds / 60), round(seconds / 3600)
    if seconds < 100:
        return f"{seconds:.0f}s"
    if minutes < 100:
        return f"{minutes}m"
    if minutes < 600:
        return f"{minutes // 60}h{minutes % 60:02}m"
    return f"{hours}h" if hours < 48 else f"{hours // 24}d{hours % 24:02}h" if hours < 240 else f"{hours // 24}d"


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

    table.add_row(f"held-out avg@{k} (95%)", accuracy(before), accuracy(after))
    table.add_row("mean length, tokens", *(f"{r[length]:.1f}" for r in (before, after)))
    if after.get(f"eval/{name}/kl_ref") is not None:
        table.add_row("KL to the start, nats", "0", f"{after[f'eval/{name}/kl_ref']:.4f}")
    trained = [r for r in rows if None not in (r.get("policy/entropy"), r.get("select/kept_fraction"))]
    if trained:
        table.add_row("entropy, nats", *(f"{r['policy/entropy']:.3f}" for r in (trained[0], trained[-1])))
        kept = sum(r["select/kept_fraction"] for r in trained) / len(trained)
        table.add_row("responses kept", "", f"{kept:.0%}")
    console.print(table)
