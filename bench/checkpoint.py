"""What a checkpoint costs the demo: in the background and in the foreground, on one thread."""

from __future__ import annotations

import tempfile
import time
from argparse import Namespace
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from bench.compare import Row, comparison, line, say, values
from sieverl.assets import RECIPE
from sieverl.recipe import load
from sieverl.training.loop import one_step, save
from sieverl.training.setup import prepare
from sieverl.training.state import Run

STEPS = 10  # to a checkpoint
SIDES = ("background", "foreground")


def costs(run: Run) -> Row:
    """Seconds that a save holds up the run, that writing takes a processor in a thread, and that ten steps take."""
    run.saver.wait()
    written = list[float]()
    start = run.saver.start

    def timed(work: Callable[[], None]) -> None:
        def measured() -> None:
            began = time.thread_time()
            work()
            written.append(time.thread_time() - began)

        start(measured)

    run.saver.start = timed  # type: ignore[method-assign]
    began = time.perf_counter()
    save(run)
    blocked = time.perf_counter() - began
    for _ in range(STEPS):
        one_step(run)
    seconds = time.perf_counter() - began - blocked
    run.saver.wait()
    run.saver.start = start  # type: ignore[method-assign]
    return {"blocked": blocked, "written": written[0], "steps": seconds}


def prepared(run_dir: Path, side: str) -> Run:
    """A run of the demo that has made its first steps."""
    changes = {"run_dir": str(run_dir), "threads": 1, "steps": 10**6, "checkpoint.background": side == SIDES[0]}
    run = prepare(load(RECIPE, {**changes, "evaluate.source": "", "evaluate.every": 0}), say=lambda text: None)
    costs(run)
    return run


def run(workload: str, options: Namespace) -> Row:
    """The line: seconds that a save holds up the run, in the background and in the foreground."""
    found: dict[str, list[Row]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        runs = {side: stack.enter_context(prepared(Path(folder, side), side)) for side in SIDES}
        for _ in range(options.repeats or 5):
            for side, one in runs.items():
                found[side].append(costs(one))
                say(f"  {side}: {found[side][-1]}")
    background, foreground = found.values()
    ten = median(values(background, "steps"))
    share = {
        "held up": median(values(background, "blocked")) / ten,
        "held up, with the thread's processor time": median([x["blocked"] + x["written"] for x in background]) / ten,
        "in the foreground": median(values(foreground, "blocked")) / ten,
    }
    main = comparison("a save holds up the run", values(background, "blocked"), values(foreground, "blocked"))
    return line("checkpoint", workload, main, settings={"seconds of 10 steps": ten, "of them": share})
