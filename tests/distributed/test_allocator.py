"""What is freed is given back or used again, and kernels of old shapes are forgotten."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sieverl.distributed.allocator import KERNEL_CACHES, keep_less

RESIDENT = """
def resident():
    with open("/proc/self/status") as file:
        return next(int(row.split()[1]) for row in file if row.startswith("VmRSS")) / 1024
"""
SCRIPT = """
import sys
from sieverl.distributed.allocator import give_back_large_tensors

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
    command = [sys.executable, "-c", RESIDENT + SCRIPT]
    freed = [float(subprocess.check_output([*command, how], text=True)) for how in ("give back", "as it is")]
    assert freed[0] > 60, "MiB of 64"
    assert freed[1] < 40, "what it is for"


KERNELS = """
import sys, torch
from sieverl.distributed.allocator import keep_less

if sys.argv[1] == "less":
    keep_less()
torch.set_num_threads(1)
weight = torch.ops.mkldnn._reorder_linear_weight(torch.zeros(256, 256))
def multiply(shapes):
    for rows in shapes:
        torch.ops.mkldnn._linear_pointwise(torch.zeros(rows, 256), weight, None, "none", [], "")
multiply(range(1, 129))
before = resident()
multiply(range(129, 513))
print(resident() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the memory that Linux shows")
@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch without oneDNN")
def test_new_shapes_do_not_fill_the_memory() -> None:
    command = [sys.executable, "-c", RESIDENT + KERNELS]
    inherited = {name: value for name, value in os.environ.items() if name not in KERNEL_CACHES}
    less, more = (
        float(subprocess.check_output([*command, how], text=True, env=inherited)) for how in ("less", "as it is")
    )
    assert less < more / 2, "MiB of 384 shapes"


def test_what_the_user_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LRU_CACHE_CAPACITY", "7")
    monkeypatch.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", raising=False)
    keep_less()
    assert (os.environ["LRU_CACHE_CAPACITY"], os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"]) == ("7", "128")
