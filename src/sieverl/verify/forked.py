"""A worker for a function of the running program, a closure or a cell of a notebook: a fork, which has it already."""

from __future__ import annotations

import importlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from sieverl.errors import UsageError
from sieverl.userfile import GIVEN
from sieverl.verify.verifier import Spec

LOOK_S = 0.005  # between two looks at whether a process has ended
ONE_AT_A_TIME = threading.Lock()  # a library's hook refuses a fork while another thread forks (filelock does)


def names_given(spec: Spec) -> Iterator[str]:
    """The names in a specification of functions that the running program gave, those of a sum's parts too.

    >>> list(names_given({"name": "sum", "parts": [{"name": "math"}, {"name": "given:brief"}]}))
    ['given:brief']
    """
    if str(spec.get("name")).startswith(GIVEN):
        yield str(spec["name"])
    parts = spec.get("parts")
    for part in parts if isinstance(parts, list | tuple) else ():
        if isinstance(part, Mapping):
            yield from names_given(part)


def fork(channel: socket.socket, env: Mapping[str, str]) -> Forked:
    """Start a worker as a fork of this process. Raises a UsageError where the system has no fork."""
    if not hasattr(os, "fork"):
        raise UsageError("this system has no fork to run a function of this program in; put it in a file: FILE.py:NAME")
    with ONE_AT_A_TIME:
        pid = os.fork()
    if pid == 0:
        _work(channel, env)
    return Forked(pid)


class Forked:
    """A forked process, with what is used of a `subprocess.Popen`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
        if self.returncode is None:
            try:
                ended, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:  # another has waited for it
                ended, status = self.pid, 0
            if ended:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, once it has ended. Raises subprocess.TimeoutExpired after `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("a forked worker", timeout or 0.0)
            time.sleep(LOOK_S)
        return code

    def send_signal(self, sig: int) -> None:
        """Send it a signal, if it runs."""
        if self.poll() is None:
            os.kill(self.pid, sig)

    def kill(self) -> None:
        """Kill it."""
        self.send_signal(signal.SIGKILL)


def _work(channel: socket.socket, env: Mapping[str, str]) -> NoReturn:
    """What the fork does: give up all that it has of its parent but the memory, and serve as any worker does."""
    code = 1
    try:
        os.setsid()
        os.dup2(channel.fileno(), 0)
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))  # with other workers' sockets, which would outlive the parent
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        os.environ.clear()
        os.environ.update(env)
        if (torch := sys.modules.get("torch")) is not None:
            torch.set_num_threads(1)  # OpenMP's threads were not copied
        worker: Any = importlib.import_module("sieverl.verify.worker")  # by name, as `new_python` does it
        worker.OWN = os.getpid()
        worker.main()
        code = 0
    finally:
        os._exit(code)
