"""What every rank of a run does, whoever started it: prepare, then train."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from sieverl.recipe import Recipe
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


def work(recipe: Recipe, resume: Resume, watcher: Watcher, stopping: StopRequests = stop_requests) -> Outcome:
    """One rank from the start of a run to its end; `stopping` says which signals ask it to stop.

    Raises what `prepare` raises, and an Alarm.
    """
    run = prepare(recipe, resume, watcher.say)
    graded = run.declared_graded is not False
    watcher.started(Start(run.state.step, bool(run.metrics.rows()), graded))
    stopped = None
    with run:
        try:
            train(run, watcher.row, stopping)
        except Preempted as request:
            stopped = request.signal
    return Outcome(run.state.step, run.world.rank, stopped)
