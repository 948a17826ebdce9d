"""The worker process of the verification pool. Its standard input is a socket to the parent.

Each message is one JSON value on one line. The first request is the specification with its limits, the replies are
{"started": true} and, once the user's file is imported, {"ready": true, ...}; every other request is a list of
[id, response, row], with one reply for each response that repeats its id. The process ends when the socket closes, and
so with its parent.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import math
import os
import signal
import socket
import traceback
from pathlib import Path
from typing import TextIO

from sieverl.errors import DataError, SieveRLError
from sieverl.types import Row
from sieverl.verify import build
from sieverl.verify.limits import IMPORT_MB, deny_network, limit_memory, wake_when_parent_dies
from sieverl.verify.process import LOAD_S, MARK, Message, kill_descendants
from sieverl.verify.verifier import Verifier

OWN = os.getpid()
PACKAGE = Path(__file__).parents[1]


def main() -> None:
    """Serve until the socket closes, then kill whatever the verifier has left running."""
    channel, lines = connect()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the parent has gone
        serve(channel, lines)
    if os.getpid() == OWN:
        kill_descendants(OWN, os.environ[MARK])
    os._exit(0)  # at once, without waiting for threads and exit handlers of the user's code


def connect() -> tuple[socket.socket, TextIO]:
    """The socket to the parent and its lines, moved away from standard input and output, which user code may use."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    wake_when_parent_dies()
    faulthandler.register(signal.SIGUSR1)  # the trainer asks where this process is stuck
    channel = socket.socket(fileno=os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    return channel, channel.makefile("r", encoding="utf-8", newline="\n")


def serve(channel: socket.socket, lines: TextIO) -> None:
    """Reply to requests until the socket closes, or this process can no longer be trusted."""
    first = lines.readline()
    if not first.endswith("\n"):  # the parent died before it had sent the whole line
        return
    config = json.loads(first)
    if not config.get("network"):
        deny_network()
    limited = limit_memory(config["memory_mb"] + IMPORT_MB)
    send(channel, {"started": True, "limited": limited})
    signal.alarm(math.ceil(LOAD_S) + 5)  # if the import hangs and the parent is gone, the kernel ends it
    try:
        verifier = build(config["spec"])
    except SieveRLError as error:
        send(channel, fatal_message(error))
        return
    signal.alarm(0)
    limit_memory(config["memory_mb"])
    graded = verifier.graded if verifier.graded is not None else verifier.declares()
    send(channel, {"ready": True, "graded": graded})
    for line in lines:
        if not line.endswith("\n"):
            return
        for id, response, row in json.loads(line):
            signal.alarm(math.ceil(config["timeout_s"]) + 5)
            reply = verdict_message(verifier, response, row)
            signal.alarm(0)
            send(channel, {"id": id, **reply})
            if reply.get("last"):
                return


def send(channel: socket.socket, message: Message) -> None:
    """Send one message. In a process that the verifier has forked: end instead, since the parent expects no copy."""
    if os.getpid() != OWN:
        os._exit(0)
    channel.sendall(json.dumps(message).encode() + b"\n")


def verdict_message(verifier: Verifier, response: str, row: Row) -> Message:
    """The verdict on one response, or what went wrong; `last` after memory ran out, when the state may be broken."""
    try:
        verdict = verifier(response, row)
        return {"verdict": [verdict.reward, verdict.correct, verdict.status, dict(verdict.parts)]}
    except SieveRLError as error:
        return fatal_message(error)
    except MemoryError:
        return {"error": "out of memory", "last": True}
    except Exception as error:  # a user's function can raise anything; it costs this response only
        return {"error": f"{type(error).__name__}: {error}"[:300] + raised_at(error)}


def raised_at(error: Exception) -> str:
    """Where the user's file raised an error, such as ` (reward.py:3)`; empty if no code outside this package ran.

    The user's file is the first in the traceback outside this package, the line is the last one in that file.
    """
    frames = [(Path(frame.filename), frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    user_frames = [(file, line) for file, line in frames if PACKAGE not in file.parents]
    if not user_frames:
        return ""
    file = user_frames[0][0]
    return f" ({file.name}:{[line for other, line in user_frames if other == file][-1]})"


def fatal_message(error: SieveRLError) -> Message:
    """The message that stops the run, since the specification or the data cannot work."""
    return {"fatal": "data" if isinstance(error, DataError) else "usage", "message": str(error)}


if __name__ == "__main__":
    main()
