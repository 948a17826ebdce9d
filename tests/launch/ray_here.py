"""Runs on Ray as a user starts them, and nodes of a Ray cluster on this machine; nothing of it outlives a test."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

LIMIT_S = 900  # generous: other programs may share the machine
QUIET = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "t" * 64, "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1",
         "RAY_worker_niceness": "0"}  # fmt: skip


def environment() -> dict[str, str]:
    return {**os.environ, **QUIET, "PYTHONPATH": os.pathsep.join(sys.path), "COLUMNS": "160"}


@contextmanager
def started(command: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process; it and all that it started are gone afterwards."""
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment(), cwd=log.parent)
        try:
            yield process
        finally:
            family = [process.pid, *(child.pid for child in children(process.pid))]
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(5)
            for pid in family:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()


def children(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def sieverl(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "sieverl", *arguments]


def run_to_end(command: Sequence[str], folder: Path, name: str = "run") -> tuple[int, str]:
    """The exit code and the output."""
    log = folder / f"{name}.log"
    with started(command, log) as process:
        process.wait(LIMIT_S)
    return process.returncode, log.read_text()


def wait_until(seen: Callable[[], object], process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + LIMIT_S
    while not seen():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < until, log.read_text()
        time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def two_nodes(folder: Path) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """A Ray cluster of two nodes with a CPU each: its address and the processes that started them."""
    ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus=1", "--disable-usage-stats"]
    port = free_port()
    address = f"127.0.0.1:{port}"
    # Ray takes the ports of its workers from 10002 up; those of the head must not be among them
    ports = [f"--port={port}", "--min-worker-port=0", "--max-worker-port=0"]
    head = [*ray, "--head", *ports, "--include-dashboard=false", f"--temp-dir={short_folder(folder)}"]
    with started(head, folder / "head.log") as first:
        wait_until(
            lambda: "has started" in (folder / "head.log").read_text() or listens(port), first, folder / "head.log"
        )
        node = [*ray, f"--address={address}", "--min-worker-port=0", "--max-worker-port=0"]
        with started(node, folder / "node.log") as second:
            wait_until(lambda: "runtime started" in (folder / "node.log").read_text(), second, folder / "node.log")
            yield address, [first, second]


def short_folder(folder: Path) -> Path:
    """Ray's sockets have paths, which must be short."""
    return Path("/tmp") / f"sr{os.getpid()}" if os.name == "posix" else folder


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def ranks(*started: subprocess.Popen[bytes]) -> list[int]:
    """The processes of Ray Train's ranks among what these processes started."""
    found = []
    for child in [child for process in started for child in children(process.pid)]:
        with suppress(psutil.NoSuchProcess):
            found += [child.pid] if "RayTrainWorker" in "".join(child.cmdline()) else []
    return found
