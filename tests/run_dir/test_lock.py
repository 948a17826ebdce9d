"""A run directory has one run at a time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sieverl.errors import UsageError
from sieverl.run_dir.lock import Lock

HOLD = """
import subprocess, sys
from pathlib import Path
from sieverl.run_dir.lock import Lock
lock = Lock()
lock.take(Path(sys.argv[1]))
child = subprocess.Popen([sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"])
print(child.pid, flush=True)
sys.stdin.read()
"""


def test_s1_the_second_is_refused_with_the_pid_of_the_first(tmp_path: Path) -> None:
    first, second = Lock(), Lock()
    first.take(tmp_path)
    with pytest.raises(UsageError, match=rf"another run is at work in .* \(process {os.getpid()}, this one"):
        second.take(tmp_path)
    first.close()
    second.take(tmp_path)
    second.close()


def test_a_process_that_dies_lets_go_though_its_children_live(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdin is not None
    lines = {holder.stdout.readline().strip() for _ in range(2)}
    (child,) = lines - {"up"}
    lock = Lock()
    with pytest.raises(UsageError, match=f"process {holder.pid}"):
        lock.take(tmp_path)
    holder.kill()
    holder.wait()
    try:
        os.kill(int(child), 0)
        lock.take(tmp_path)
    finally:
        os.kill(int(child), 9)
        lock.close()
        holder.stdout.close()
        holder.stdin.close()
