"""Memory that large tensors leave is given back, also between smaller ones that stay."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys
from sieverl.distributed.allocator import give_back_large_tensors

def resident():
    with open("/proc/self/status") as file:
        return next(int(row.split()[1]) for row in file if row.startswith("VmRSS")) / 1024

if sys.argv[1] == "give back":
    give_back_large_tensors()
kept = []
for turn in range(3):
    large = []
    for _ in range(8):
        large.append(bytearray(8 << 20))
        kept.append(bytearray(1 << 16))
    full = resident()
    large.clear()
print(full - resident())
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the memory that Linux shows")
def test_large_tensors_leave_no_gaps() -> None:
    command = [sys.executable, "-c", SCRIPT]
    freed = [float(subprocess.check_output([*command, how], text=True)) for how in ("give back", "as it is")]
    assert freed[0] > 60, "MiB of 64"
    assert freed[1] < 40, "what it is for"
