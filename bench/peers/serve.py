"""The peer's end of the pipe: `step` on standard input, one JSON line back; everything else printed goes to stderr."""

from __future__ import annotations

import json
import os
import resource
import sys
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


def peak_mb() -> float:
    """Largest resident memory of this process since its start, in MB (10^6 bytes)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
