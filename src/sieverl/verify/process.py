"""A worker process as its parent sees it: start it, exchange messages with it, kill it and all that it started."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import psutil

import sieverl
from sieverl.errors import DataError, SieveRLError, UsageError
from sieverl.text import storable
from sieverl.types import Row, Status, Verdict

Message = dict[str, object]  # one JSON object on one line; its keys are checked where they are used
START_S = 120.0  # seconds for a worker to start, which a cold disk under load can take
LOAD_S = 60.0  # seconds for a user's file to be imported
MARK = "SIEVERL_WORKER"  # an environment variable of a worker, inherited by the processes that it starts
LONGEST = 2**20  # most bytes of a reply; those of our worker are far shorter
# Of the parent's environment a worker has what finds its files and libraries, and nothing that could be a secret.
INHERITED = re.compile(
    r"PATH|HOME|USER|LOGNAME|SHELL|TERM|TZ|TMPDIR|LANG|LANGUAGE|LC_\w+|LD_LIBRARY_PATH|DYLD_LIBRARY_PATH|VIRTUAL_ENV|"
    r"CONDA_PREFIX|PYTHON(PATH|HOME|UTF8|IOENCODING|WARNINGS|DONTWRITEBYTECODE|PYCACHEPREFIX)|CUDA_VISIBLE_DEVICES|"
    r"HF_HOME|HF_HUB_CACHE|HF_HUB_OFFLINE|XDG_CACHE_HOME|COVERAGE_\w+"
)
ROUNDS = 100  # most times to look for processes to kill, 10 ms apart


class Process(Protocol):
    """What is used of a `subprocess.Popen`."""

    pid: int
    returncode: int | None

    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, sig: int) -> None: ...
    def kill(self) -> None: ...


Start = Callable[[socket.socket, Mapping[str, str]], Process]


class GarbledError(Exception):
    """A line that is no reply to the request: something other than the worker writes to its channel."""


class Worker:
    """One worker process and the socket to it.

    Every request has an id, the worker's random mark and a number, and its reply has the same id.
    """

    def __init__(self, variables: Sequence[str] = (), start: Start | None = None) -> None:
        """Start it. `variables` are the names of environment variables that it has beside the usual ones.

        `start` makes the process, from its end of the socket and its environment; by default a new Python.
        """
        ours, theirs = socket.socketpair()
        self.mark = secrets.token_hex(8)
        # The worker must find this package, however this process did; -P keeps user files from shadowing modules.
        path = [str(Path(sieverl.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        env = {name: text for name, text in os.environ.items() if INHERITED.fullmatch(name) or name in variables}
        env |= {
            "PYTHONPATH": os.pathsep.join(filter(None, path)),
            "PYTHONHASHSEED": "0",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            MARK: self.mark,
        }
        with theirs:
            self.process = (start or new_python)(theirs, env)
        self._socket = ours
        self._buffer = b""
        self._asked = 0
        self._open: deque[str] = deque()

    def send(self, message: object, timeout_s: float) -> None:
        """Send one line. Raises TimeoutError if it is not received in time, another OSError if that fails."""
        self._socket.settimeout(timeout_s)
        self._socket.sendall(json.dumps(message, default=to_json, skipkeys=True).encode() + b"\n")

    def receive(self, timeout_s: float) -> Message:
        """The next message. Raises TimeoutError, EOFError (the worker is dead) or GarbledError (not a JSON object)."""
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
        """Send responses with their rows; the worker replies to each, in order."""
        self._open = deque(f"{self.mark}-{self._asked + i}" for i in range(len(pairs)))
        self._asked += len(pairs)
        self.send([[id, *pair] for id, pair in zip(self._open, pairs, strict=True)], timeout_s)

    def reply(self, timeout_s: float) -> Message:
        """The reply to the oldest open request. Raises what `receive` raises, and GarbledError for any other reply."""
        message, id = self.receive(timeout_s), self._open.popleft()
        if message.get("id") != id:
            raise GarbledError(f"a reply to {str(message.get('id'))[:40]!r}, which was not the request")
        return message

    def is_idle(self) -> bool:
        """Whether it runs, and has sent nothing that was not requested."""
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
        """Its exit code, or minus the signal that killed it; None if it still runs after a second."""
        try:
            return self.process.wait(1.0)
        except subprocess.TimeoutExpired:
            return None

    def kill(self) -> None:
        """Kill it and all that it started."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGSTOP)  # so that it starts nothing more
        kill_descendants(self.process.pid, self.mark)
        self.process.kill()

    def close(self) -> None:
        """Kill it, wait for its end and close the socket."""
        self.kill()
        self.process.wait()
        self._socket.close()


def new_python(channel: socket.socket, env: Mapping[str, str]) -> Process:
    """A worker in a Python of its own."""
    command = [sys.executable, "-P", "-m", "sieverl.verify.worker"]
    return subprocess.Popen(command, stdin=channel.fileno(), stdout=subprocess.DEVNULL, env=env, start_new_session=True)


def parse_verdict(reply: Message) -> Verdict:
    """The verdict in a worker's reply. Raises GarbledError if there is none."""
    try:
        found = reply["verdict"]
        reward, correct, status, parts = found if isinstance(found, list) else []
        return Verdict(
            float(reward), bool(correct), Status(status), {storable(name): value for name, value in parts.items()}
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise GarbledError(f"{str(reply)[:60]}, which is no verdict") from error


def fatal_error(reply: Message) -> SieveRLError:
    """The error with which a worker asks to stop the run."""
    return (DataError if reply["fatal"] == "data" else UsageError)(str(reply["message"]))


def kill_descendants(worker: int, mark: str) -> None:
    """Kill all that the worker with this process id started, but not the worker, and return when it is gone."""
    for _ in range(ROUNDS):  # a process may start another one before it is killed
        found = descendants(worker, mark)
        if not found:
            return
        for process in found:
            with contextlib.suppress(psutil.Error):
                process.kill()
        time.sleep(0.01)


def descendants(worker: int, mark: str) -> set[psutil.Process]:
    """The running processes that descend from a worker, belong to its session or have its mark.

    No single criterion is enough: the first misses a process whose parent has ended, the second one that opened a
    session of its own, the third one that was started with `env={}`.
    """
    found: set[psutil.Process] = set()
    with contextlib.suppress(psutil.Error):
        found.update(psutil.Process(worker).children(recursive=True))
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if os.getsid(process.pid) == worker or process.environ().get(MARK) == mark:
                found |= {process, *process.children(recursive=True)}
    return {process for process in found if process.pid != worker and is_running(process)}


def is_running(process: psutil.Process) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def to_json(value: object) -> object:
    """A value that JSON lacks as one that it has: NumPy arrays and scalars as lists and numbers, the rest as text."""
    return value.tolist() if hasattr(value, "tolist") else str(value)
