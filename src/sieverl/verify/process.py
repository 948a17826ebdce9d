"""One worker process as its parent sees it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import sieverl

START_S = 120.0  # a cold disk under load; after that the worker counts as not starting


class Worker:
    """One worker process and the socket to it."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        # The package must be found however this process found it; -P keeps a user's file names from hiding modules.
        path = [str(Path(sieverl.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        env = os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, path)),
            "PYTHONHASHSEED": "0",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        with theirs:
            command = [sys.executable, "-P", "-m", "sieverl.verify.worker"]
            self.process = subprocess.Popen(command, stdin=theirs.fileno(), env=env)
        self._socket = ours
        self._channel = ours.makefile("r", encoding="utf-8", newline="\n")

    def send(self, message: Any, timeout_s: float) -> None:
        """Send one line; raises OSError (TimeoutError) if it is not taken in time."""
        self._socket.settimeout(timeout_s)
        self._socket.sendall(json.dumps(message, default=plain, skipkeys=True).encode() + b"\n")

    def receive(self, timeout_s: float) -> dict[str, Any]:
        """The next line; raises TimeoutError after `timeout_s`, EOFError if the worker is dead."""
        self._socket.settimeout(timeout_s)
        line = self._channel.readline()
        if not line.endswith("\n"):
            raise EOFError("the verifier's worker process died")
        return json.loads(line)

    def exit_code(self) -> int | None:
        """Its exit code once it is dead, minus the signal that killed it; None if it lives on."""
        try:
            return self.process.wait(1.0)
        except subprocess.TimeoutExpired:
            return None

    def kill(self) -> None:
        """End it, whatever it is doing."""
        self.process.kill()
        self.process.wait()
        self._channel.close()
        self._socket.close()


def plain(value: Any) -> Any:
    """What JSON does not know: arrays and their scalars as lists and numbers, the rest as text."""
    return value.tolist() if hasattr(value, "tolist") else str(value)
