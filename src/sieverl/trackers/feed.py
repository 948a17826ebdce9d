"""A tracker and the thread that feeds it. Its queue is metrics.jsonl: nothing waits in memory, and nothing is lost."""

from __future__ import annotations

import threading
from collections import deque
from pathlib import Path

from sieverl.errors import first_line
from sieverl.recipe.tables import Trackers
from sieverl.run_dir.metrics import MetricsLog
from sieverl.run_dir.saved import SavedRun
from sieverl.trackers.chosen import Chosen
from sieverl.trackers.entries import entry_of
from sieverl.trackers.marks import Mark, mark_path
from sieverl.trackers.secrets import redacted
from sieverl.trackers.tracker import Place, Tracker
from sieverl.types import Metrics

AT_ONCE = 64  # rows that are read at a time
TRIES = 3  # how often a row is tried, each time that another one comes


class Feed:
    """Gives a tracker the rows of a run that it has not had, in a thread of its own: there alone may it fail or hang.

    A row is marked as given before it is given: after `kill -9` none goes twice. A tracker that fails gets the row
    again when the next ones come, up to `TRIES` times; then it goes on with the next row, or is given up if it did not
    even open. `says` holds what there is to say; `pending` whether rows are left.
    """

    def __init__(self, chosen: Chosen, run_dir: Path, settings: Trackers) -> None:
        self.chosen, self.name, self.settings = chosen, chosen.name, settings
        self.run, self.rows = SavedRun.read(run_dir), MetricsLog(run_dir / "metrics.jsonl")
        self.path = mark_path(run_dir, self.name)
        self.mark = Mark.read(self.path, settings.project or chosen.project())
        self.says: deque[str] = deque()
        self.pending = False
        self._tracker: Tracker | None = None
        self._read, self._waiting = 0, deque[Metrics]()
        self._failures = self._skipped = 0
        self._warned = self._given_up = self._left_behind = False
        self._news, self._ok = threading.Event(), True
        self._closing = False
        self.thread = threading.Thread(target=self._work, name=f"tracker {self.name}", daemon=True)
        self.thread.start()
        self.notify()

    def notify(self) -> None:
        """There is a new row in metrics.jsonl."""
        self._news.set()

    def close(self, ok: bool) -> None:
        """There will be no more; does not wait."""
        self._ok, self._closing = ok, True
        self._news.set()

    # --- in the thread ------------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            over = False
            while not over:
                self._news.wait()
                self._news.clear()
                over = self._closing
                self._take()
            if self._tracker is not None:
                self._tracker.close(self._ok)
        except BaseException as error:  # whatever a tracker raises, even SystemExit: the run goes on
            self._warn(error)

    def _take(self) -> None:
        """Give what is there, as far as the tracker takes it."""
        while not self._given_up and not self._left_behind:
            if not self._waiting:
                rows, self._read = self.rows.after(self._read, AT_ONCE)
                self._waiting.extend(rows)
            self.pending = bool(self._waiting)
            if not self._waiting or not self._give(self._waiting[0]):
                return
            self._waiting.popleft()

    def _give(self, row: Metrics) -> bool:
        """Give one row; whether to go on with the next one."""
        before, step = self.mark, int(row["step"])
        if step <= before.step:
            return True
        try:
            self._tracker = self._tracker or self._open()
            self.mark = before.at(step, self.path)
            self._tracker.log(entry_of(self.run, row, self.settings))
        except BaseException as error:  # as above
            self._failures += 1
            self._warn(error)
            if self._failures == TRIES and self._tracker is not None:
                self._failures, self._skipped = 0, self._skipped + 1
                return True
            self._given_up = self._failures == TRIES
            if not self._left_behind:  # else the next start may have moved the mark
                self.mark = before.at(before.step, self.path)
            return False
        self._failures = 0
        return True

    def _open(self) -> Tracker:
        run_dir = self.run.path
        name = self.settings.run_name or self.run.name
        place = Place(self.mark.project, name, self.mark.id, self.mark.step < 0, run_dir, self.run.recipe)
        self.mark = self.mark.at(self.mark.step, self.path)  # the id, before the tracker has it
        tracker = self.chosen.open(place)
        if where := getattr(tracker, "where", ""):
            self.says.append(f"{self.name}: {where}")
        return tracker

    def _warn(self, error: BaseException) -> None:
        """Say the first failure; there may be one for each row."""
        if not self._warned:
            self._warned = True
            said = redacted(f"{type(error).__name__}: {first_line(error)}")
            self.says.append(
                f"the tracker {self.name} failed ({said}); the run goes on, and metrics.jsonl has its rows"
            )

    # --- at the end ---------------------------------------------------------------------------------

    def left(self, seconds: float) -> str:
        """What did not reach the tracker, in words; empty where all did."""
        goes_on = "the same command gives it the rows after step"
        if self.thread.is_alive():
            self._left_behind = True  # in a process that goes on it gives no more rows: the next start does
            return (
                f"the tracker {self.name} was not done {seconds:g} s after the end of the run (trackers.timeout_s) and "
                f"is left behind; {goes_on} {self.mark.step}"
            )
        if self.pending:
            return f"the tracker {self.name} did not take all rows; {goes_on} {self.mark.step}"
        return f"the tracker {self.name} did not take {self._skipped} rows" if self._skipped else ""
