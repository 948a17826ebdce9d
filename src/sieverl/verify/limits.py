"""What a worker asks of the kernel before it runs a user's code: no memory beyond a limit, no network, not to stay."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
from pathlib import Path

IMPORT_MB = 8192  # for the import of a user's file, beyond memory_mb: PyTorch with CUDA maps several GiB
NEW_USER, NEW_NETWORK = 0x10000000, 0x40000000  # flags of unshare(2)

PR_SET_PDEATHSIG = 1  # of prctl(2)


def signal_when_parent_dies(number: int) -> None:
    """Ask the kernel for a signal to this process when its parent is gone; elsewhere than on Linux nothing happens."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)


def wake_when_parent_dies() -> None:
    """A stopped process goes on when its parent is gone, and so finds that it must leave (Linux).

    The pool stops a worker to kill all that it has started; a pool that is killed just then left it stopped for ever.
    """
    signal_when_parent_dies(signal.SIGCONT)


def limit_memory(memory_mb: int) -> bool:
    """Allow `memory_mb` MiB beyond what is used now; False where the system cannot limit memory, as on macOS."""
    try:
        with open("/proc/self/statm") as pages:
            used = int(pages.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        limit = used + memory_mb * 2**20
        if hard != resource.RLIM_INFINITY:
            limit = min(limit, hard)
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    except (OSError, ValueError):
        return False
    return True


def deny_network() -> bool:
    """Move this process and all that it starts to a network of its own, which has no device; False where it cannot.

    Linux allows it to root, and to others where user namespaces are enabled. Unix sockets with a path still work.
    """
    try:
        unshare = ctypes.CDLL(None, use_errno=True).unshare
    except (AttributeError, OSError):  # not Linux
        return False
    if unshare(NEW_NETWORK) == 0:
        return True
    user, group = os.getuid(), os.getgid()
    if unshare(NEW_USER | NEW_NETWORK) != 0:
        return False
    with contextlib.suppress(OSError):  # else it is nobody to itself; the kernel knows better
        for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            Path("/proc/self", name).write_text(text)
    return True
