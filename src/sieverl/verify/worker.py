"""The worker process of the verification pool, driven over the socket that it has as its standard input.

Both ways one JSON value a line. First comes the specification and its limits, answered by {"ready": true}; then lists
of [response, row], answered by one line a response. The process ends with the socket, and so with its parent.
"""

from __future__ import annotations

import json
import math
import os
import resource
import signal
import socket
import sys
from typing import Any, TextIO

from sieverl.errors import DataError, SieveError, UsageError
from sieverl.verify import build
from sieverl.verify.check import Check

FATAL = {"usage": UsageError, "data": DataError}


def main() -> None:
    """Serve until the socket closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    channel = socket.socket(fileno=os.dup(0)).makefile("rw", encoding="utf-8", newline="\n")
    # The user's function may print and read: neither may touch the channel.
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    config = json.loads(channel.readline())
    try:
        check = build(config["spec"])
    except SieveError as error:
        return say(channel, fatal(error))
    limit_memory(config["memory_mb"])
    say(channel, {"ready": True})
    for line in channel:
        for response, row in json.loads(line):
            # Should the parent be gone while this hangs, the kernel ends it all the same.
            signal.alarm(math.ceil(config["timeout_s"]) + 5)
            reply = answer(check, response, row)
            signal.alarm(0)
            say(channel, reply)
            if reply.get("last"):
                return None
    return None


def say(channel: TextIO, message: dict[str, Any]) -> None:
    """Send one line."""
    channel.write(json.dumps(message) + "\n")
    channel.flush()


def answer(check: Check, response: str, row: dict[str, Any]) -> dict[str, Any]:
    """The verdict of one response, or what went wrong; after running out of memory the process is not to be trusted."""
    try:
        verdict = check(response, row)
        return {"verdict": [verdict.reward, verdict.correct, verdict.status]}
    except SieveError as error:
        return fatal(error)
    except MemoryError:
        return {"error": "out of memory", "last": True}
    except Exception as error:  # whatever a user's function raises is data about that response
        return {"error": f"{type(error).__name__}: {error}"[:300]}


def fatal(error: SieveError) -> dict[str, Any]:
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
