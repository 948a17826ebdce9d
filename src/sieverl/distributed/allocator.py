"""The memory that libraries keep for later: freed tensors in the C library, compiled kernels in oneDNN."""

from __future__ import annotations

import contextlib
import ctypes
import os

M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8  # of mallopt(3) of glibc
LARGE = 1 << 20  # bytes
KERNELS = 128
KERNEL_CACHES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")  # oneDNN's, and PyTorch's around it


def keep_less() -> None:
    """From now on the threads of this process share one heap, and matrix products keep the last 128 kernels.

    A heap for each thread, glibc's default, leaves what the backward's threads freed out of the rollout's reach. By
    default oneDNN keeps 1,024 kernels of 0.3 MB, and rollouts bring new shapes in every step. What the user set in the
    environment stays. Must be called before the first matrix product.
    """
    for variable in KERNEL_CACHES:
        os.environ.setdefault(variable, str(KERNELS))
    if "MALLOC_ARENA_MAX" not in os.environ:
        _mallopt(M_ARENA_MAX, 1)


def give_back_large_tensors() -> None:
    """From now on a freed tensor of 1 MiB or more is no longer part of this process's memory.

    By default glibc raises its limit to 32 MiB as tensors are freed, and keeps them for later. Gathered weights that
    come and go between tensors that stay leave gaps that nothing fits into. Another C library is left as it is.
    """
    _mallopt(M_MMAP_THRESHOLD, LARGE)


def _mallopt(option: int, value: int) -> None:
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(option, value)
