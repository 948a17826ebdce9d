"""Memory that libraries keep for later (freed tensors, compiled kernels), and how they say that it does not suffice."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os

import torch

M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8  # of mallopt(3) of glibc
LARGE = 1 << 20  # bytes
KERNELS = 128
KERNEL_CACHES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")  # oneDNN's, and PyTorch's around it

SAID = ("out of memory", "can't allocate memory", "not enough memory", "alloc_failed")  # by PyTorch's allocators


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


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is one of those with which Python, PyTorch or CUDA say that memory does not suffice.

    >>> is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"))
    True
    >>> is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    False
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in SAID)


def free_cached() -> None:
    """Give back what failed work has left: call it where its error, which holds the tensors, is gone."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _mallopt(option: int, value: int) -> None:
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(option, value)
