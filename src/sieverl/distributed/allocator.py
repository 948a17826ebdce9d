"""The allocator of the C library, told to give large tensors back to the system at once."""

from __future__ import annotations

import contextlib
import ctypes

M_MMAP_THRESHOLD = -3  # of mallopt(3) of glibc
LARGE = 1 << 20  # bytes


def give_back_large_tensors() -> None:
    """From now on a freed tensor of 1 MiB or more is no longer part of this process's memory.

    By default glibc raises its limit to 32 MiB as tensors are freed, and keeps them for later. Gathered weights that
    come and go between tensors that stay leave gaps that nothing fits into. Another C library is left as it is.
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE)
