"""The processes of a run, forked from one that has imported everything, so that a start takes a second."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil


def start(work: Callable[[int], None], ranks: int, log: Path) -> list[int]:
    """Fork the ranks of a run, each of which does `work`; their process ids."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = []
    for rank in range(ranks):
        if pid := os.fork():
            started.append(pid)
            continue
        code = 1
        try:
            os.setsid()
            errors = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(errors, 1)
            os.dup2(errors, 2)
            if ranks > 1:
                place = {"RANK": rank, "WORLD_SIZE": ranks, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": ranks}
                os.environ |= {k: str(v) for k, v in {**place, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items()}
            work(rank)
            code = 0
        except BaseException:  # a fork must never go on in its parent's code
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)
    return started


def wait(pids: list[int], until: float) -> list[int] | None:
    """The exit codes of processes, or None if one is still there at that time."""
    codes: dict[int, int] = {}
    while len(codes) < len(pids):
        for pid in pids:
            if pid not in codes and (found := os.waitpid(pid, os.WNOHANG))[0]:
                codes[pid] = os.waitstatus_to_exitcode(found[1])
        if time.monotonic() > until:
            return None
        time.sleep(0.002)
    return [codes[pid] for pid in pids]


def end(pids: list[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for pid in pids:
        with suppress(ChildProcessError):
            os.waitpid(pid, 0)


def left(log: Path, seconds: float = 10.0) -> list[str]:
    """The commands of the processes that still write to the log of a run that has ended, once it had some time."""
    deadline, found = time.monotonic() + seconds, ["?"]
    while found and time.monotonic() < deadline:
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                if os.readlink(f"/proc/{process.pid}/fd/2") == str(log):
                    found.append(f"{process.status()} {process.pid} {' '.join(process.cmdline())}")
        time.sleep(0.1)
    return found
