"""Run by test_watchdog: `hanging.py HOW RUN_DIR`, a run whose engine never answers.

HOW is `waiting` (in Python; the run is to stop), or `locked`: in C, with the interpreter's lock held for five seconds.
The deadline is short only once the engine is asked, since a start can take longer.
"""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from runs import NOT_EVALUATED, recipe

from sieverl.engines.fake import FakeEngine
from sieverl.engines.protocol import Request
from sieverl.training import watchdog
from sieverl.training.loop import train
from sieverl.training.setup import prepare

DOGS: list[watchdog.Watchdog] = []
RUN_DIR = Path(sys.argv[-1])


class Impatient(watchdog.Watchdog):
    def __init__(self, limit_s: float, stalled: Callable[[dict[str, str], float], None]) -> None:
        super().__init__(limit_s, stalled)
        DOGS.append(self)


def waiting(request: Request, sample: int) -> list[int]:
    DOGS[0].limit_s = 0.5
    time.sleep(600)
    return []


def locked(request: Request, sample: int) -> list[int]:
    DOGS[0].limit_s = 0.5
    while not (RUN_DIR / "stalled.txt").exists():
        time.sleep(0.05)
    ctypes.PyDLL(None).sleep(5)
    sys.exit("it went on")


if __name__ == "__main__":
    how = sys.argv[1]
    watchdog.GRACE, watchdog.TICK, watchdog.Watchdog = 0.5, 0.1, Impatient  # type: ignore[misc]
    do = {"waiting": "stop", "locked": "warn"}[how]
    run = prepare(recipe(RUN_DIR, **NOT_EVALUATED, alarms__stalled__do=do), say=lambda text: None)
    run.environment = replace(run.environment, engine=FakeEngine({"waiting": waiting, "locked": locked}[how]))
    with run:
        train(run)
