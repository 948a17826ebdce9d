"""A tracker of the user's: a function of a row of metrics, or an object with `log(entry)`."""

from __future__ import annotations

from typing import Any

from sieverl.trackers.tracker import Entry, Place, Tracker


def of_the_user(found: Any, place: Place) -> Tracker:
    """A tracker around what the user gave; of a class with `log`, an object is made first.

    >>> from pathlib import Path
    >>> here = Place("sieverl", "demo-1", "a1", True, Path("runs/demo-1"), {})
    >>> of_the_user(print, here).log(Entry(1, {"train/loss": 0.5}))
    {'step': 1, 'train/loss': 0.5}
    """
    if isinstance(found, type) and hasattr(found, "log"):
        found = found()
    return Logs(found) if hasattr(found, "log") else Function(found)


class Function:
    """Calls a function with each row: a dictionary of numbers, `step` among them."""

    where = ""

    def __init__(self, function: Any) -> None:
        self.function = function

    def log(self, entry: Entry) -> None:
        self.function({"step": entry.step, **entry.metrics})

    def close(self, ok: bool) -> None:
        """A function needs none."""


class Logs:
    """Passes entries on to an object, and the end to its `close(ok)` if it has one."""

    def __init__(self, tracker: Any) -> None:
        self.tracker, self.where = tracker, str(getattr(tracker, "where", ""))

    def log(self, entry: Entry) -> None:
        self.tracker.log(entry)

    def close(self, ok: bool) -> None:
        if hasattr(self.tracker, "close"):
            self.tracker.close(ok)
