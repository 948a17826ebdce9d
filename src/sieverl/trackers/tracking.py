"""All trackers of a run, while it trains."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from sieverl.errors import first_line
from sieverl.recipe.tables import Trackers
from sieverl.trackers.chosen import Chosen
from sieverl.trackers.feed import Feed
from sieverl.types import Metrics, Note

Say = Callable[[str], None]
HURRY_S = 5.0  # the longest wait for trackers when the run was asked to stop


class Tracking:
    """Keeps trackers up to date with a run directory; a context that waits for them at its end, for a bounded time.

    They take the rows of metrics.jsonl that they have not had yet: those of this start, and those that an earlier one
    left. None of them can stop the run or hold it up.
    """

    def __init__(self, trackers: Sequence[Chosen], run_dir: Path, settings: Trackers, say: Say = print) -> None:
        self.settings, self.say = settings, say
        self.feeds: list[Feed] = []
        for one in trackers:
            try:
                self.feeds.append(Feed(one, run_dir, settings))
            except Exception as error:  # such as too many threads
                say(f"the tracker {one.name} does not start ({first_line(error)}); the run goes on without it")

    def row(self, row: Metrics) -> list[Note]:
        """A row was written to metrics.jsonl; what there is to say of trackers since the last one."""
        for feed in self.feeds:
            feed.notify()
        return [Note(text) for text in self._heard()]

    def close(self, ok: bool = True, seconds: float | None = None) -> None:
        """Have the trackers take the last rows, and wait for them up to `seconds`, all together."""
        seconds = self.settings.timeout_s if seconds is None else min(seconds, self.settings.timeout_s)
        feeds, self.feeds = self.feeds, []
        for feed in feeds:
            feed.close(ok)
        until = time.monotonic() + seconds
        for feed in feeds:
            feed.thread.join(max(0.0, until - time.monotonic()))
        for feed in feeds:
            for text in (*feed.says, feed.left(seconds)):
                if text:
                    self.say(text)

    def _heard(self) -> list[str]:
        return [feed.says.popleft() for feed in self.feeds for _ in range(len(feed.says))]

    def __enter__(self) -> Tracking:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        interrupted = kind is not None and not issubclass(kind, Exception)
        self.close(ok=kind is None, seconds=0.0 if interrupted else None)
