"""SIGTERM and SIGINT: a run finishes its step, saves and stops."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


class Preempted(Exception):
    """A signal asked the run to stop; the last step was finished and saved."""

    def __init__(self, number: int) -> None:
        self.signal = number


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """The SIGTERM and SIGINT received so far, so that a run can stop between steps; a second Ctrl-C stops at once."""
    seen: list[int] = []

    def note(number: int, frame: object) -> None:
        if seen and number == signal.SIGINT:
            raise KeyboardInterrupt
        seen.append(number)

    try:
        before = {s: signal.signal(s, note) for s in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:  # not in the main thread: its owner handles signals
        before = {}
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
