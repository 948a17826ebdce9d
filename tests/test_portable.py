"""A run where the system has nothing of Linux's own: no /proc, no limit of memory, no prctl, unshare or mallopt."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from conftest import ROOT

from sieverl.run_dir.metrics import MetricsLog

# Imported by every Python at its start. psutil has other ways on other systems, so it may go on to read /proc here.
ANOTHER_SYSTEM = """
import builtins, ctypes, io, os, resource, sys

def ours():
    return not sys._getframe(2).f_globals.get("__name__", "").startswith("psutil")

real_open, real_limit = io.open, resource.setrlimit

def other_open(file, *args, **kwargs):
    if isinstance(file, (str, os.PathLike)) and os.fspath(file).startswith("/proc/") and ours():
        raise FileNotFoundError(2, "No such file or directory", os.fspath(file))
    return real_open(file, *args, **kwargs)

class OtherLibrary(ctypes.CDLL):
    def __getattr__(self, name):
        if name in ("prctl", "unshare", "mallopt"):
            raise AttributeError(name)
        return super().__getattr__(name)

def other_limit(kind, limits):
    if kind == resource.RLIMIT_AS:
        raise ValueError("current limit exceeds maximum limit")
    return real_limit(kind, limits)

builtins.open = io.open = other_open
ctypes.CDLL = OtherLibrary
resource.setrlimit = other_limit
"""


def elsewhere(work: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run Python on that system."""
    (work / "other").mkdir(exist_ok=True)
    (work / "other" / "sitecustomize.py").write_text(ANOTHER_SYSTEM)
    path = os.pathsep.join([str(work / "other"), str(ROOT / "src")])
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *command], cwd=work, env=env, capture_output=True, text=True, timeout=300)


def test_a_run_needs_nothing_of_linux_and_says_once_what_is_missing(work: Path) -> None:
    (work / "mine.py").write_text(
        "def mine(response, row):\n"
        "    try:\n        open('/proc/self/statm')\n    except FileNotFoundError:\n        return 1.0\n"
    )
    options = ("--verify.name", "mine.py:mine", "--verify.workers", "2", "--rollout.max_tokens", "64")
    done = elsewhere(work, "-m", "sieverl", "train", "r.toml", *options)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("this system cannot limit the memory of a process, so verify.memory_mb") == 1
    last = MetricsLog(work / "runs" / "r" / "metrics.jsonl").rows()[-1]
    assert last["reward/mean"] == 1.0, "the worker was on that system, too"
    assert last["verify/errors"] == 0
    assert "Traceback" not in done.stderr


def test_windows_is_told_what_to_do(work: Path) -> None:
    script = "import sys; sys.platform = 'win32'; import sieverl.__main__"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 1
    assert "runs on Linux and macOS; on Windows, install it in WSL" in done.stderr
    assert "Traceback" not in done.stderr
