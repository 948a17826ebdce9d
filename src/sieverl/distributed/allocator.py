"""The allocator of the C library, told to give large tensors back to the system at once."""

from __future__ import annotations

import contextlib
import ctypes

M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8  # of mallopt(3) of glibc
LARGE = 1 << 20  # bytes


def give_back_large_tensors() -> None:
    """From now on a freed tensor of 1 MiB or more is no longer part of this process's memory.

    By default glibc raises its limit to 32 MiB as tensors are freed, and keeps them for later. Gathered weights that
    come and go between tensors that stay leave gaps that nothing fits into. Threads share one heap, since each heap has
    gaps of its own. Another C library is left as it is.
    """
    with contextlib.suppress(AttributeError, OSError):
        library = ctypes.CDLL(None)
        library.mallopt(M_MMAP_THRESHOLD, LARGE)
        library.mallopt(M_ARENA_MAX, 1)
