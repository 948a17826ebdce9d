"""What every rank of a run does, whoever started it: prepare, then train."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sieverl.recipe import Recipe
from sieverl.trackers import Tracking, chosen, given
from sieverl.trackers.tracking import HURRY_S
from sieverl.training.loop import StopRequests, train
from sieverl.training.resume import Resume
from sieverl.training.setup import prepare
from sieverl.training.signals import Preempted, stop_requests
from sieverl.types import Metrics, Note


@dataclass(frozen=True)
class Start:
    """Where a run begins: the step, whether it has rows already, whether rewards may mean more than right and wrong."""

    step: int
    has_rows: bool
    graded: bool


@dataclass(frozen=True)
class Outcome:
    """How a run ended: the last step, the rank that says so, and the signal that stopped it, if one did."""

    step: int
    rank: int = 0
    signal: int | None = None


class Watcher(Protocol):
    """The terminal that started a run, wherever its ranks are."""

    def say(self, text: str) -> None:
        """A line for people."""

    def started(self, start: Start) -> None:
        """Training begins; again, when it goes on from a checkpoint after a failure."""

    def row(self, row: Metrics, notes: Sequence[Note]) -> None:
        """A row of metrics and the notes on it."""


Launcher = Callable[[Recipe, Resume, Watcher], Outcome]


def work(
    recipe: Recipe,
    resume: Resume,
    watcher: Watcher,
    stopping: StopRequests = stop_requests,
    trackers: Sequence[Any] = (),
) -> Outcome:
    """One rank from the start of a run to its end; `stopping` says which signals ask it to stop.

    `trackers` are Python objects beside those of the recipe (`trackers.given`). Raises what `prepare` and
    `trackers.chosen` raise, and an Alarm.
    """
    shown_in = [*chosen(recipe.trackers), *given(trackers)]
    run = prepare(recipe, resume, watcher.say)
    graded = run.declared_graded is not False
    watcher.started(Start(run.state.step, bool(run.metrics.rows()), graded))
    stopped = None
    first = run.world.rank == 0
    with run, Tracking(shown_in if first else [], run.run_dir, recipe.trackers, watcher.say) as tracking:

        def on_row(row: Metrics, notes: Sequence[Note]) -> None:
            watcher.row(row, [*notes, *tracking.row(row)])

        try:
            train(run, on_row, stopping)
        except Preempted as request:
            stopped = request.signal
            tracking.close(ok=False, seconds=HURRY_S)
    return Outcome(run.state.step, run.world.rank, stopped)
