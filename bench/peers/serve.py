"""The peer's end of the pipe: `step` on standard input, one JSON line back; everything else printed goes to stderr.

`device` is `cpu` or `cuda`; PyTorch is imported for `cuda` only.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any


def open_output() -> Callable[[Mapping[str, Any]], None]:
    """Keep standard output for JSON lines: returns the function that writes one; prints of libraries go to stderr."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def write(row: Mapping[str, Any]) -> None:
        out.write(json.dumps(dict(row)) + "\n")
        out.flush()

    return write


def wait() -> bool:
    """Block until the next request, a line; false at the end of input."""
    return bool(sys.stdin.readline())


def requests() -> Iterator[dict[str, Any]]:
    """Each request as it comes, for a process that knows several."""
    for text in iter(sys.stdin.readline, ""):
        yield json.loads(text)


def answer(known: Mapping[str, Callable[..., dict[str, Any]]], request: dict[str, Any]) -> dict[str, Any]:
    """What `known[request["do"]]` returns, or an `error` where the GPU is too small."""
    import torch

    try:
        return known[request.pop("do")](**request)
    except torch.OutOfMemoryError as error:
        torch.cuda.empty_cache()
        return {"error": str(error).partition(". GPU")[0]}


def now(device: str = "cpu") -> float:
    """The clock, in seconds, once the device has finished what it was given."""
    if device != "cpu":
        import torch

        torch.cuda.synchronize()
    return time.perf_counter()


def watch_memory(device: str = "cpu", every: float = 0.02) -> Callable[[], float]:
    """A function that gives the peak so far in MB (10^6 bytes): resident memory, or all that is in use on the GPU.

    On a GPU a thread looks `every` so many seconds, since vLLM does not allocate through PyTorch alone.
    """
    if device == "cpu":
        return peak_mb
    import torch

    peak = 0.0

    def look() -> float:
        nonlocal peak
        free, total = torch.cuda.mem_get_info()
        peak = max(peak, (total - free) / 1e6)
        return peak

    def keep_looking() -> None:
        while True:
            look()
            time.sleep(every)

    threading.Thread(target=keep_looking, daemon=True).start()
    return look


def peak_mb() -> float:
    """Largest resident memory of this process since its start, in MB (10^6 bytes)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
