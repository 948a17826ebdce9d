"""The worker process of the verification pool, driven over the socket that it has as its standard input.

Both ways one JSON value a line. First comes the specification and its limits, answered by {"ready": true}; then lists
of [id, response, row], answered by one line a response that repeats its id. The process ends with the socket, and so
with its parent.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import resource
import signal
import socket
import sys
import traceback
from pathlib import Path
from typing import Any, TextIO

from sieverl.errors import DataError, SieveRLError
from sieverl.verify import build
from sieverl.verify.check import Verifier
from sieverl.verify.process import MARK, end_started

OWN = os.getpid()
PACKAGE = Path(__file__).parents[1]


def main() -> None:
    """Serve until the socket closes, then end whatever the verifier has left running."""
    channel, lines = connect()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the parent has gone
        serve(channel, lines)
    if os.getpid() == OWN:
        end_started(OWN, os.environ[MARK])
    os._exit(0)  # at once: threads and exit handlers of the user's must not keep it


def connect() -> tuple[socket.socket, TextIO]:
    """The channel to the parent and its lines, out of reach of a function that prints and reads."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    channel = socket.socket(fileno=os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    return channel, channel.makefile("r", encoding="utf-8", newline="\n")


def serve(channel: socket.socket, lines: TextIO) -> None:
    """Answer what comes; returns when nothing more will."""
    first = lines.readline()
    if not first:
        return
    config = json.loads(first)
    try:
        check = build(config["spec"])
    except SieveRLError as error:
        say(channel, fatal(error))
        return
    limit_memory(config["memory_mb"])
    say(channel, {"ready": True, "graded": check.graded if check.graded is not None else check.declares()})
    for line in lines:
        for id, response, row in json.loads(line):
            # Should the parent be gone while this hangs, the kernel ends it all the same.
            signal.alarm(math.ceil(config["timeout_s"]) + 5)
            reply = answer(check, response, row)
            signal.alarm(0)
            say(channel, {"id": id, **reply})
            if reply.get("last"):
                return


def say(channel: socket.socket, message: dict[str, Any]) -> None:
    """Send one line; a copy of this process that a verifier has forked says nothing and ends."""
    if os.getpid() != OWN:
        os._exit(0)
    channel.sendall(json.dumps(message).encode() + b"\n")


def answer(check: Verifier, response: str, row: dict[str, Any]) -> dict[str, Any]:
    """The verdict of one response, or what went wrong; after running out of memory the process is not to be trusted."""
    try:
        verdict = check(response, row)
        return {"verdict": [verdict.reward, verdict.correct, verdict.status, dict(verdict.parts)]}
    except SieveRLError as error:
        return fatal(error)
    except MemoryError:
        return {"error": "out of memory", "last": True}
    except Exception as error:  # whatever a user's function raises is data about that response
        return {"error": f"{type(error).__name__}: {error}"[:300] + place(error)}


def place(error: Exception) -> str:
    """Where the user's file raised it, such as ` (reward.py:3)`; empty where no foreign code took part.

    The user's file is the first outside this package, the line the last in that file.
    """
    frames = [(Path(frame.filename), frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    foreign = [(file, line) for file, line in frames if PACKAGE not in file.parents]
    if not foreign:
        return ""
    file = foreign[0][0]
    return f" ({file.name}:{[line for other, line in foreign if other == file][-1]})"


def fatal(error: SieveRLError) -> dict[str, Any]:
    """The message that stops the run: the specification or the data cannot work."""
    return {"fatal": "data" if isinstance(error, DataError) else "usage", "message": str(error)}


def limit_memory(memory_mb: int) -> None:
    """Allow `memory_mb` beyond what the imports took; where the system cannot limit it, only the time is limited."""
    try:
        with open("/proc/self/statm") as pages:
            used = int(pages.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        limit = used + memory_mb * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    except OSError:
        print("sieverl: no memory limit for the verifier on this system", file=sys.stderr)


if __name__ == "__main__":
    main()
