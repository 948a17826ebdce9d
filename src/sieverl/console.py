"""What the user sees while a run goes on, and at its end."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from rich.console import Console
from rich.table import Table

from sieverl.loop import Run
from sieverl.metrics import nonfinite

Row = dict[str, Any]
WHAT = {
    "advantages": "advantages of tokens",
    "log_probs": "log-probs of tokens",
    "losses": "losses of micro-batches",
    "gradients": "gradients, each an update that was not made",
}


class Progress:
    """One line a step; the running mean of accuracy, so that the trend shows through the noise of a batch."""

    def __init__(self, run: Run, console: Console) -> None:
        self.run, self.console = run, console
        self.started, self.first = time.perf_counter(), run.state.step
        self.accuracy: float | None = None
        self.zero_losses = 0
        self.reasons: Counter[str] = Counter()  # of the verifier's errors so far
        self.with_reward = run.verifier_graded is not False
        mean = f"{'reward':>8}  " if self.with_reward else ""
        rest = f"{'kept':>5}  {'entropy':>7}  {'tokens/s':>8}  {'held out':>8}  {'left':>6}"
        self.header = f"{'step':>9}  {'accuracy':>8}  {mean}{rest}"

    def __call__(self, row: Row) -> None:
        if self.run.train.world.rank:
            return
        recipe, step = self.run.recipe, row["step"]
        name = f"eval/{recipe.evaluate.name}/avg@{recipe.evaluate.samples}"
        held = f"{row[name]:8.1%}" if name in row else " " * 8
        if step == 0 or "reward/accuracy" not in row:
            self.console.print(self.header, style="bold", highlight=False)
            self.console.print(
                f"{'start':>9}  {'':8}  {' ' * 10 * self.with_reward}{'':5}  {'':7}  {'':8}  {held}", highlight=False
            )
            self.started = time.perf_counter()
            return
        if step == self.first + 1 and self.first:
            self.console.print(self.header, style="bold", highlight=False)
        now = row["reward/accuracy"]
        self.accuracy = now if self.accuracy is None else 0.8 * self.accuracy + 0.2 * now
        left = (time.perf_counter() - self.started) / max(1, step - self.first) * (recipe.steps - step)
        every = 1 if recipe.steps <= 40 else 5
        news = bool(set(self.run.reasons) - set(self.reasons))
        self.reasons += self.run.reasons
        due = step % every == 0 or step <= 3 or step == recipe.steps or name in row
        if not due and row["select/kept_fraction"] and not nonfinite(row) and not news:
            return
        mean = f"{row['reward/mean']:8.3f}  " if self.with_reward else ""
        self.console.print(
            f"{step:>4}/{recipe.steps:<4}  {self.accuracy:8.1%}  {mean}{row['select/kept_fraction']:5.0%}  "
            f"{row['policy/entropy']:7.3f}  {row['rollout/tokens_per_second']:8,.0f}  {held}  {left:5.0f}s",
            highlight=False,
        )
        self._explain(row, news)

    def _explain(self, row: Row, news: bool) -> None:
        """Say in words what puzzles people: what rewards mean, an empty step, failing verification, a loss of zero."""
        for text in (self._grades(row["step"]), self._threshold(row["step"])):
            if text:
                self.console.print(f"           {text}", style="yellow", markup=False, highlight=False)
        if not row["select/kept_fraction"]:
            self.console.print(
                f"           nothing kept: {row['select/all_wrong']:.0%} of prompts all wrong, "
                f"{row['select/all_correct']:.0%} all correct; no update was made",
                style="yellow",
                highlight=False,
            )
        if bad := nonfinite(row):
            counted = ", ".join(f"{count} {WHAT[name]}" for name, count in bad.items())
            self.console.print(f"           NaN or infinity: {counted}", style="yellow", highlight=False)
        trouble = int(row["verify/timeouts"]), int(row["verify/errors"])
        if any(trouble):
            why = ""
            if self.run.reasons:
                reason, count = self.run.reasons.most_common(1)[0]
                why = f": {count} x {reason}" if news else f" ({self.reasons.total()} so far, for no new reason)"
            self.console.print(
                f"           verifier: {trouble[0]} timeouts, {trouble[1]} errors{why}",
                style="yellow",
                markup=False,
                highlight=False,
            )
        self.zero_losses += bool(row["train/updates"] and abs(row["train/loss"]) < 1e-6)
        if self.zero_losses == 3:
            self.zero_losses += 1
            self.console.print(
                "           the loss reads 0 on-policy because advantages are centred; the gradient does not",
                style="dim",
                highlight=False,
            )

    def _grades(self, step: int) -> str:
        """How the rewards of a function that does not say so are taken, after the first step."""
        if step > 1 or self.run.verifier_graded is not None:
            return ""
        if self.run.state.graded:
            return "rewards are taken as they are, since not all are 0, 1 or -1; verify.graded = true says so"
        return "rewards are taken as right or wrong, since all so far are 0, 1 or -1; verify.graded = false says so"

    def _threshold(self, step: int) -> str:
        """That no response counts as correct, after three steps in which rewards differ."""
        verify = self.run.recipe.verify
        if step != 3 or not (":" in verify.name or verify.name == "reasoning_gym"):
            return ""
        rows = [row for row in self.run.metrics.rows() if 1 <= row["step"] <= 3]
        highest = max(row.get("reward/max", 0.0) for row in rows)
        if any(row["reward/accuracy"] for row in rows) or not any(row.get("reward/std") for row in rows):
            return ""
        return (
            f"no reward reached verify.correct_from = {verify.correct_from:g} so far (highest {highest:g}): accuracy "
            "counts none as correct, and algorithms that select the correct ones keep nothing; set it lower if it is"
            " out of reach"
        )


def summary(run: Run, console: Console) -> None:
    """A before/after table of the run's own metrics."""
    rows = run.metrics.rows()
    if len(rows) < 2:
        return
    name, k = run.recipe.evaluate.name, run.recipe.evaluate.samples
    key = f"eval/{name}/avg@{k}"
    evaluated = [r for r in rows if key in r]
    if not evaluated:
        return
    before, after = evaluated[0], evaluated[-1]
    table = Table(title=f"{run.recipe.algorithm}, {rows[-1]['step']} steps")
    for column in ("", "before", "after"):
        table.add_column(column, justify="left" if not column else "right")
    ci = f"eval_ci/{name}/avg@{k}"

    def accuracy(row: Row) -> str:
        return f"{row[key]:.1%} ({row[f'{ci}/low']:.1%} to {row[f'{ci}/high']:.1%})"

    table.add_row(f"held-out accuracy, avg@{k} (95%)", accuracy(before), accuracy(after))
    table.add_row("mean response length, tokens", *(f"{r[f'eval/{name}/length_mean']:.1f}" for r in (before, after)))
    if f"eval/{name}/kl_ref" in after:
        table.add_row("KL to the start model, nats a token", "0", f"{after[f'eval/{name}/kl_ref']:.4f}")
    trained = [r for r in rows if r.get("policy/entropy") is not None]
    if trained:
        table.add_row("entropy, nats a token", *(f"{r['policy/entropy']:.3f}" for r in (trained[0], trained[-1])))
        kept = sum(r["select/kept_fraction"] for r in trained) / len(trained)
        table.add_row("responses kept", "", f"{kept:.0%}")
    console.print(table)
