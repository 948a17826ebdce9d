"""Run by test_watchdog: `hanging.py HOW RUN_DIR`, a run whose engine never answers.

HOW is `waiting` (in Python), or `locked`: in C, with the interpreter's lock held, for three seconds.
"""

from __future__ import annotations

import ctypes
import sys
import time
from dataclasses import replace
from pathlib import Path

from runs import NOT_EVALUATED, recipe

from sieverl.engines.fake import FakeEngine
from sieverl.engines.protocol import Request
from sieverl.training import watchdog
from sieverl.training.loop import train
from sieverl.training.setup import prepare


def waiting(request: Request, sample: int) -> list[int]:
    time.sleep(600)
    return []


def locked(request: Request, sample: int) -> list[int]:
    time.sleep(1)  # until the watchdog has looked once
    ctypes.PyDLL(None).sleep(3)
    sys.exit("it went on")


if __name__ == "__main__":
    how, run_dir = sys.argv[1:]
    watchdog.GRACE = 0.5
    engine = FakeEngine({"waiting": waiting, "locked": locked}[how])
    limits = {"alarms__stalled__do": "stop" if how == "waiting" else "warn", "alarms__stalled__seconds": 1.0}
    run = prepare(recipe(Path(run_dir), **NOT_EVALUATED, **limits), say=lambda text: None)
    run.environment = replace(run.environment, engine=engine)
    with run:
        train(run)
