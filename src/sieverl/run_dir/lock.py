"""One run at a time in a run directory."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from sieverl.errors import UsageError

NAME = ".lock"
PATIENCE_S = 2.0  # for a process that is about to end, as after a restart of all ranks


class Lock:
    """Holds a run directory until it is closed or the process ends, however it ends.

    The lock is the system's (flock), so no file of a dead process is in the way; programs that this one starts do not
    inherit it.
    """

    def __init__(self) -> None:
        self._file: int | None = None

    @property
    def held(self) -> bool:
        """Whether it holds a directory."""
        return self._file is not None

    def take(self, run_dir: Path, option: str = "--run-dir") -> None:
        """Lock a directory that is there. Raises a UsageError that names the process which has it, and the option."""
        file = os.open(run_dir / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            _lock(file, time.monotonic() + PATIENCE_S)
        except OSError as error:
            owner = os.pread(file, 32, 0).decode(errors="replace").strip()
            os.close(file)
            here = ", this one: leave its `with run:` first" if owner == str(os.getpid()) else ""
            raise UsageError(
                f"another run is at work in {run_dir} (process {owner or 'unknown'}{here}); wait for it, stop it, or "
                f"use another {option}"
            ) from error
        os.ftruncate(file, 0)
        os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
        self._file = file

    def close(self) -> None:
        """Let another run in."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _lock(file: int, deadline: float) -> None:
    """Lock a file; raises an OSError if another process has it until the deadline."""
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.05)
