"""The live display of a run: a region of the terminal that a thread of rich's draws again four times a second.

The run hands over its rows and goes on; everything else is read from the run directory, by that thread.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table

from sieverl.display.console import heldout, running_mean
from sieverl.display.frame import SECTIONS, Sample, Scene, frame
from sieverl.display.look import Checkpoints, choose_sample, find_checkpoints, read_run, title
from sieverl.display.said import Notes
from sieverl.recipe import Recipe
from sieverl.types import Metrics, Note

WIDEST = 120  # columns
ROWS = 2000  # that curves go back
LOOK_S, SAMPLE_S = 1.0, 12.0  # how often checkpoints are looked for, and another response is shown


class Region(Live):
    """A region that keeps the first error of its drawing, and from then on stays as it is."""

    error: Exception | None = None

    def refresh(self) -> None:
        """Draw again."""
        if self.error is None:
            try:
                super().refresh()
            except Exception as error:  # a display never harms a run; `LiveProgress` passes it on with the next row
                self.error = error


class LiveProgress:
    """The live display of a run that starts from step `first`; `clock` gives the seconds since 1970.

    Where drawing failed, the next row raises what it failed with.
    """

    def __init__(
        self, recipe: Recipe, first: int, graded: bool, console: Console, clock: Callable[[], float] = time.time
    ) -> None:
        self.recipe, self.first, self.graded, self.clock, self.console = recipe, first, graded, clock, console
        self.run_dir = Path(recipe.run_dir)
        saved = read_run(self.run_dir)
        earlier = [row for row in saved.rows if row["step"] <= first]
        self.title = title(recipe, saved.starts)
        self.rows: deque[Metrics] = deque(earlier, maxlen=ROWS)
        self.mean = running_mean(earlier)
        self.notes = Notes()
        self.begun = self.at = clock()
        self.ended = False
        self.looked, self.checkpoints = -LOOK_S, Checkpoints()
        self.chosen = -SAMPLE_S
        self.sample: Sample | None = None
        self.region = Region(
            console=console, refresh_per_second=4, get_renderable=self.draw, redirect_stderr=sys.stderr.isatty()
        )
        self.region.start()
        console.show_cursor(True)  # nothing has to bring it back when the process is killed

    def __call__(self, row: Metrics, notes: Sequence[Note]) -> None:
        if self.region.error is not None:
            raise self.region.error
        for note in notes:
            self.notes.add(row["step"], note.text)
        self.at = self.clock()
        if "reward/accuracy" not in row:  # the evaluation before training
            self.begun = self.at
        self.mean = running_mean([row], self.mean)
        self.rows.append(row)

    def close(self) -> None:
        """Draw the last state, which stays."""
        self.ended = True
        self.region.stop()

    def draw(self) -> Table:
        """The frame of now, without the sections for which the terminal is not high enough."""
        scene, width = self.scene(), min(self.console.width, WIDEST)
        options = self.console.options.update(width=width, height=None)
        for without in range(len(SECTIONS)):
            table = frame(scene, width, without)
            if scene.ended or len(self.console.render_lines(table, options)) < self.console.height:
                break
        return table

    def scene(self) -> Scene:
        """What is to be seen now."""
        now, rows = self.clock(), list(self.rows)
        step, left = int(rows[-1]["step"]) if rows else self.first, None
        if step > self.first:
            left = max(0.0, (self.at - self.begun) / (step - self.first) * (self.recipe.steps - step) + self.at - now)
        if now >= self.looked + LOOK_S or self.ended:
            self.looked, self.checkpoints = now, find_checkpoints(self.run_dir)
        if now >= self.chosen + SAMPLE_S and (found := choose_sample(self.run_dir, rows)):
            self.chosen, self.sample = now, found
        return Scene(
            title=self.title,
            steps=self.recipe.steps,
            heldout=heldout(self.recipe),
            rows=rows,
            mean=self.mean,
            left=left,
            graded=self.graded,
            notes=list(self.notes),
            sample=self.sample,
            checkpoint=self.checkpoints.age(now),
            saving=self.checkpoints.saving,
            ended=self.ended,
        )
