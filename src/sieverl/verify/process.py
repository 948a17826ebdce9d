"""One worker process as its parent sees it: what is said to it, what it answers, and its end with all it started."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

import sieverl
from sieverl.types import Row

START_S = 120.0  # a cold disk under load; after that the worker counts as not starting
MARK = "SIEVERL_WORKER"  # in the environment of a worker and so of all that it starts
LONGEST = 2**20  # bytes of a reply; ours are far shorter
ROUNDS = 100  # of looking for processes to end, 10 ms apart


class GarbledError(Exception):
    """A line that is no answer to what was asked: something else writes to the worker's channel."""


class Worker:
    """One worker process and the socket to it.

    Every request carries an id, a number behind a random text that no other worker has, and its reply carries the same.
    """

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self.mark = secrets.token_hex(8)
        # The package must be found however this process found it; -P keeps a user's file names from hiding modules.
        path = [str(Path(sieverl.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        env = os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, path)),
            "PYTHONHASHSEED": "0",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            MARK: self.mark,
        }
        with theirs:
            command = [sys.executable, "-P", "-m", "sieverl.verify.worker"]
            self.process = subprocess.Popen(
                command, stdin=theirs.fileno(), stdout=subprocess.DEVNULL, env=env, start_new_session=True
            )
        self._socket = ours
        self._buffer = b""
        self._asked = 0
        self._open: deque[str] = deque()

    def send(self, message: Any, timeout_s: float) -> None:
        """Send one line; raises OSError (TimeoutError) if it is not taken in time."""
        self._socket.settimeout(timeout_s)
        self._socket.sendall(json.dumps(message, default=plain, skipkeys=True).encode() + b"\n")

    def receive(self, timeout_s: float) -> dict[str, Any]:
        """The next line; raises TimeoutError after `timeout_s`, EOFError if it is dead, GarbledError for noise."""
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("the verifier's worker process does not answer")
            self._socket.settimeout(left)
            received = self._socket.recv(65536)
            if not received:
                raise EOFError("the verifier's worker process died")
            self._buffer += received
            if len(self._buffer) > LONGEST:
                raise GarbledError("a line without an end")
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            message = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise GarbledError(f"{line[:40]!r}, which is not JSON") from error
        if not isinstance(message, dict):
            raise GarbledError(f"{line[:40]!r}, which is no object")
        return message

    def ask(self, pairs: Sequence[tuple[str, Row]], timeout_s: float) -> None:
        """Send responses with their rows; each is to be answered, in order, under the id that it gets here."""
        self._open = deque(f"{self.mark}-{self._asked + i}" for i in range(len(pairs)))
        self._asked += len(pairs)
        self.send([[id, *pair] for id, pair in zip(self._open, pairs, strict=True)], timeout_s)

    def reply(self, timeout_s: float) -> dict[str, Any]:
        """The answer to the oldest open question; raises GarbledError for an answer to anything else."""
        message, id = self.receive(timeout_s), self._open.popleft()
        if message.get("id") != id:
            raise GarbledError(f"an answer to {str(message.get('id'))[:40]!r}, which was not the question")
        return message

    def quiet(self) -> bool:
        """Whether it lives and says nothing unasked."""
        if self._buffer or self.process.poll() is not None:
            return False
        self._socket.settimeout(0)
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False

    def exit_code(self) -> int | None:
        """Its exit code once it is dead, minus the signal that killed it; None if it lives on."""
        try:
            return self.process.wait(1.0)
        except subprocess.TimeoutExpired:
            return None

    def end(self) -> None:
        """End it and all that it started, whatever they are doing."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGSTOP)  # it starts nothing more
        end_started(self.process.pid, self.mark)
        self.process.kill()

    def kill(self) -> None:
        """End it and forget it."""
        self.end()
        self.process.wait()
        self._socket.close()


def end_started(worker: int, mark: str) -> None:
    """Kill all that a worker started, but not the worker, and return when it is gone."""
    for _ in range(ROUNDS):  # what is being killed may have started another
        found = started(worker, mark)
        if not found:
            return
        for process in found:
            with contextlib.suppress(psutil.Error):
                process.kill()
        time.sleep(0.01)


def started(worker: int, mark: str) -> set[psutil.Process]:
    """What descends from a worker, stands in its session or carries its mark.

    No single one is enough: the first loses a process whose parent has gone, the second one with a session of its own,
    the third one that was started with `env={}`.
    """
    found: set[psutil.Process] = set()
    with contextlib.suppress(psutil.Error):
        found.update(psutil.Process(worker).children(recursive=True))
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if os.getsid(process.pid) == worker or process.environ().get(MARK) == mark:
                found |= {process, *process.children(recursive=True)}
    return {process for process in found if process.pid != worker and alive(process)}


def alive(process: psutil.Process) -> bool:
    """Whether a process runs; one that nobody has waited for does not."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def plain(value: Any) -> Any:
    """What JSON does not know: arrays and their scalars as lists and numbers, the rest as text."""
    return value.tolist() if hasattr(value, "tolist") else str(value)
