"""Writes checkpoints, one after the other, while the run goes on."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

from sieverl.distributed.world import World


class Saver:
    """Runs what writes, `background` in a thread of its own; `world` has the connections of that thread.

    >>> saver = Saver(World(), background=True)
    >>> saver.start(lambda: None)
    >>> saver.wait()
    """

    def __init__(self, world: World, background: bool) -> None:
        self.world = world
        self._thread = ThreadPoolExecutor(1, "saver") if background else None
        self._last: Future[None] | None = None

    def start(self, work: Callable[[], None]) -> None:
        """Run `work`, once what was started before has ended."""
        self.wait()
        if self._thread:
            self._last = self._thread.submit(work)
        else:
            work()

    def check(self) -> None:
        """Raise the error of what has ended, if it had one."""
        if self._last and self._last.done():
            self.wait()

    def wait(self) -> None:
        """Wait until what was started has ended. Raises the error that it had, once."""
        last, self._last = self._last, None
        if last:
            last.result()

    def close(self) -> None:
        """Wait, and end the thread."""
        with suppress(Exception):  # the run ends by another error, or has waited
            self.wait()
        if self._thread:
            self._thread.shutdown()
