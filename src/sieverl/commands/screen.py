"""The terminal of a run: data on standard output, what is said about it on standard error, in one of four ways."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from rich.console import Console

from sieverl.display.console import Progress
from sieverl.display.live import LiveProgress
from sieverl.display.look import read_run
from sieverl.display.said import NoteLines
from sieverl.display.terminal import Terminal
from sieverl.errors import first_line
from sieverl.launch.work import Start
from sieverl.recipe import Recipe
from sieverl.run_dir.metrics import line_of
from sieverl.types import Metrics, Note

AFTER = {"rich": "plain", "plain": "none", "json": "none"}  # way to show a run -> what is left when it fails


class Display(Protocol):
    """What shows the rows of a run."""

    def __call__(self, row: Metrics, notes: Sequence[Note]) -> None:
        """A row and the notes on it."""

    def close(self) -> None:
        """There are no more."""


class Screen:
    """The `Watcher` that prints. `console` takes what a run has to give, and `log` what is said about it.

    A display that fails is given up, and the run goes on: rich becomes plain, the others nothing.
    """

    def __init__(self, recipe: Recipe, display: str) -> None:
        self.recipe, self.way = recipe, chosen(display)
        quiet = self.way == "none"
        self.log: Console = Terminal(stderr=True, soft_wrap=True, quiet=quiet)
        self.console: Console = self.log if self.way == "json" else Terminal(soft_wrap=True, quiet=quiet)
        self.display: Display = Nothing()
        if display == "rich" and self.way != "rich":
            self.say("--display rich needs a terminal that can move its cursor and shows UTF-8; this is plain")

    def say(self, text: str) -> None:
        """A line, as it is."""
        self.log.print(text, highlight=False)

    def started(self, start: Start) -> None:
        """The display begins; again, after a failure."""
        self.close()
        if start.step >= self.recipe.steps and start.has_rows:
            self.say(f"{self.recipe.run_dir} is at step {start.step} of {self.recipe.steps}: nothing is left to do")
            return
        self.start = start
        self._begin()

    def row(self, row: Metrics, notes: Sequence[Note]) -> None:
        """Show a row."""
        try:
            self.display(row, notes)
        except Exception as error:  # whatever it is, it is no reason to end a run
            self._give_up(error)
            self.row(row, notes)

    def close(self) -> None:
        """The display ends; what it showed stays."""
        display, self.display = self.display, Nothing()
        try:
            display.close()
        except Exception as error:  # what it has shown is all that there is
            self.say(f"the display failed at its end ({type(error).__name__}: {first_line(error)})")

    def _begin(self) -> None:
        try:
            self.display = self._display(self.recipe, self.start)
        except Exception as error:  # as in `row`
            self._give_up(error)

    def _display(self, recipe: Recipe, start: Start) -> Display:
        if self.way == "rich":
            return LiveProgress(recipe, start.step, start.graded, Terminal(highlight=False))
        if self.way == "plain":
            earlier = read_run(Path(recipe.run_dir)).rows
            return Progress(recipe, start.step, start.graded, self.console, self.log, earlier)
        return JsonLines(Terminal(soft_wrap=True), self.log) if self.way == "json" else Nothing()

    def _give_up(self, error: Exception) -> None:
        failed, self.way = self.way, AFTER[self.way]
        self.close()
        more = "it goes on as plain" if self.way == "plain" else "the run goes on, and metrics.jsonl has its rows"
        self.say(f"the display {failed} failed ({type(error).__name__}: {first_line(error)}); {more}")
        self._begin()


class JsonLines:
    """Each row as a line of JSON on `console`, as it stands in metrics.jsonl; notes as text on `log`."""

    def __init__(self, console: Console, log: Console) -> None:
        self.console, self.notes = console, NoteLines(log)

    def __call__(self, row: Metrics, notes: Sequence[Note]) -> None:
        self.console.print(line_of(row), end="", highlight=False)
        for one, _ in self.notes.due(row["step"], notes):
            self.notes.say(one, f"step {row['step']}: ")

    def close(self) -> None:
        """Say the counts of notes."""
        self.notes.close()


class Nothing:
    """Shows nothing."""

    def __call__(self, row: Metrics, notes: Sequence[Note]) -> None:
        """Pass over the row."""

    def close(self) -> None:
        """Do nothing."""


def chosen(display: str) -> str:
    """The way to show a run that `--display` asks for; rich only on a terminal that can do it."""
    if display not in ("auto", "rich"):
        return display
    encoding = (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "")
    able = sys.stdout.isatty() and os.environ.get("TERM") not in ("dumb", "unknown") and encoding.startswith("utf")
    return "rich" if able else "plain"
