"""A run that gets nowhere says where it stands, once: the stacks of its processes, and what they wait for."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil

from sieverl.errors import ExitCode
from sieverl.training.state import Run

TICK = 5.0  # seconds between two looks, at most
GRACE = 60.0  # seconds after which the interpreter itself counts as stuck
STDERR = 2


@contextmanager
def watching(run: Run) -> Iterator[None]:
    """Have what a run works with report its progress, and say so when there is none for `alarms.stalled.seconds`."""
    settings = run.recipe.alarms.stalled
    if settings.do == "off":
        yield
        return

    def stalled(phases: dict[str, str], seconds: float) -> None:
        report(run, phases, seconds)
        if settings.do == "stop":
            leave()

    watchdog = Watchdog(settings.seconds, stalled)
    run.environment = replace(run.environment, progress=watchdog.beat)
    run.learner.progress = watchdog.beat
    try:
        yield
    finally:
        watchdog.close()


class Watchdog:
    """Calls `stalled` with the phase of each thread when there was no `beat` for `limit_s` seconds, once a stall.

    It looks from a thread of its own. If no Python code can run, since something holds the interpreter's lock, the
    stacks of this process are printed all the same.
    """

    def __init__(self, limit_s: float, stalled: Callable[[dict[str, str], float], None]) -> None:
        self.limit_s, self.stalled = limit_s, stalled
        self._phases: dict[threading.Thread, str] = {}
        self._last = time.monotonic()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def beat(self, phase: str) -> None:
        """This thread got on, and is now in a phase such as "sampling"."""
        self._phases[threading.current_thread()] = phase
        self._last = time.monotonic()

    def close(self) -> None:
        """End the thread."""
        self._closed.set()
        self._thread.join()

    def _watch(self) -> None:
        told = None  # the last beat before the stall that was reported
        while not self._closed.wait(min(TICK, self.limit_s / 4)):
            faulthandler.dump_traceback_later(self.limit_s + GRACE, file=STDERR)
            for ended in [thread for thread in list(self._phases) if not thread.is_alive()]:
                del self._phases[ended]
            last = self._last
            if last != told and time.monotonic() - last > self.limit_s:
                told = last
                phases = {thread.name: phase for thread, phase in self._phases.copy().items()}
                self.stalled(phases, time.monotonic() - last)
        faulthandler.cancel_dump_traceback_later()


def stall_file(run: Run) -> Path:
    """Where a rank writes what it found."""
    rank = run.world.rank
    return run.run_dir / (f"stalled-rank-{rank}.txt" if rank else "stalled.txt")


def report(run: Run, phases: dict[str, str], seconds: float) -> None:
    """What each thread and process of this rank is at, into the run directory and on standard error."""
    waits = "; ".join(f"{phase} ({thread})" for thread, phase in phases.items()) or "starting"
    names = "\n".join(f"  {thread.ident or 0:#018x} {thread.name}" for thread in threading.enumerate())
    file = stall_file(run)
    text = (
        f"no progress for {seconds:.0f} s after step {run.state.step}; waits for: {waits}\n"
        f"\nthreads of process {os.getpid()}:\n{names}\n\n"
    )
    with file.open("w", encoding="utf-8") as out:
        out.write(text)
        out.flush()
        faulthandler.dump_traceback(out, all_threads=True)
        out.write("\nits processes:\n" + "\n".join(_ask(child, run) for child in _children()) + "\n")
    found = file.read_text(encoding="utf-8", errors="replace")
    print(f"sieverl: {found}\n(also in {file}; docs/alarms.md says what to do)", file=sys.stderr, flush=True)


def _children() -> list[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        found: list[psutil.Process] = psutil.Process().children(recursive=True)
        return found
    return []


def _ask(child: psutil.Process, run: Run) -> str:
    """A line about a process, which prints its stacks itself where it can."""
    try:
        ours = child.pid == getattr(getattr(run.engine, "process", None), "pid", None)
        command = " ".join(child.cmdline()[-3:])[:80]
        asked = (ours or "sieverl." in command) and _listens(child.pid)
        if asked:
            child.send_signal(signal.SIGUSR1)
        stack = "its stacks are on standard error" if asked else "stacks unknown"
        return f"  {child.pid} {child.status()} {command!r}: {stack}"
    except psutil.Error as error:
        return f"  {child.pid}: {error}"


def _listens(pid: int) -> bool:
    """Whether a process handles SIGUSR1, which would end another one."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return False
    caught = next((line.split()[1] for line in status.splitlines() if line.startswith("SigCgt")), "0")
    return bool(int(caught, 16) >> (signal.SIGUSR1 - 1) & 1)


def leave() -> None:
    """End this process and those that it started, whatever they wait for."""
    print("sieverl: stopped, since alarms.stalled.do = \"stop\"; the same command resumes from the last checkpoint",
          file=sys.stderr, flush=True)  # fmt: skip
    children = _children()
    for child in children:
        with contextlib.suppress(psutil.Error):
            child.kill()
    psutil.wait_procs(children, timeout=3)
    os._exit(ExitCode.ALARM)
