"""Run a function that is not trusted to end in a copy of this process, which is killed when it takes too long."""

from __future__ import annotations

import contextlib
import json
import math
import os
import resource
import select
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from sieverl.errors import first_line

T = TypeVar("T")
LONGEST = 2**26  # most bytes of one answer


class FailedError(Exception):
    """What became of the first value that the function could not answer: its index, and why in one line."""

    def __init__(self, index: int, why: str) -> None:
        super().__init__(why)
        self.index = index


def apart(function: Callable[[T], str], values: Sequence[T], patience_s: float, memory_mb: int) -> Iterator[str]:
    """`function` of each value, in order; it may hang, recurse or allocate without end. Raises FailedError.

    It has `patience_s` seconds for each value and `memory_mb` MiB beyond what this process has. The copy is a fork, so
    nothing is imported or sent again: the function should be plain Python, without threads, locks and devices.
    """
    reader, writer = os.pipe()
    with warnings.catch_warnings():  # newer Pythons warn of forks beside threads; this one takes no lock
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        os.close(reader)
        _answer(function, values, writer, patience_s, memory_mb)
    os.close(writer)
    try:
        buffer = b""
        for index in range(len(values)):
            line, buffer = _line(reader, buffer, index, patience_s)
            answer = json.loads(line)
            if "error" in answer:
                raise FailedError(index, answer["error"])
            yield answer["text"]
    finally:
        os.close(reader)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _line(reader: int, buffer: bytes, index: int, patience_s: float) -> tuple[bytes, bytes]:
    """The next line, and what was read after it."""
    deadline, parts = time.monotonic() + patience_s, [buffer]
    while b"\n" not in parts[-1]:
        left = deadline - time.monotonic()
        ready = select.select([reader], [], [], left)[0] if left > 0 else []
        if not ready:
            raise FailedError(index, f"it did not end in {patience_s:g} s")
        received = os.read(reader, 1 << 16)
        if not received:
            raise FailedError(index, "it used too much memory, recursed too deeply, or crashed")
        parts.append(received)
        if sum(map(len, parts)) > LONGEST:
            raise FailedError(index, f"it made more than {LONGEST >> 20} MiB of text")
    line, _, rest = b"".join(parts).partition(b"\n")
    return line, rest


def _answer(function: Callable[[T], str], values: Sequence[T], out: int, patience_s: float, memory_mb: int) -> None:
    """The life of the copy: answer each value and leave, without the exit handlers of the process it is from."""
    try:
        for number in (signal.SIGALRM, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        with contextlib.suppress(OSError, ValueError):  # a system without such limits
            with open("/proc/self/statm") as pages:
                limit = int(pages.read().split()[0]) * os.sysconf("SC_PAGE_SIZE") + (memory_mb << 20)
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        for value in values:
            signal.alarm(math.ceil(patience_s) + 5)  # the kernel ends it, should its parent be gone
            _write(out, _reply(function, value))
    finally:
        os._exit(0)


def _reply(function: Callable[[T], str], value: T) -> bytes:
    try:
        return json.dumps({"text": function(value)}).encode() + b"\n"
    except MemoryError:
        return b'{"error": "it used too much memory"}\n'
    except RecursionError:
        return b'{"error": "it recurses without end"}\n'
    except Exception as error:  # it may raise anything
        return json.dumps({"error": f"{type(error).__name__}: {first_line(error)}"}).encode() + b"\n"


def _write(out: int, data: bytes) -> None:
    while data:
        data = data[os.write(out, data) :]
