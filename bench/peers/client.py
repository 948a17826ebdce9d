"""Drive a peer that waits in a process of its own, so that its steps can alternate with ours in one run."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Any

from bench.peers.venv import ROOT

Peer = subprocess.Popen[str]


def peer(python: Path, module: str, *options: object) -> AbstractContextManager[Peer]:
    """Start `python -m bench.peers.MODULE OPTIONS`; its messages go to standard error. It is closed at the end."""
    return server(python, f"bench.peers.{module}", *options)


@contextmanager
def server(python: Path | str, module: str, *options: object, messages: IO[str] | None = None) -> Iterator[Peer]:
    """Start `python -m MODULE OPTIONS`, ours or a peer's; what it says goes to `messages`, or to standard error."""
    command = [str(python), "-m", module, *map(str, options)]
    quiet = {**os.environ, "TQDM_DISABLE": "1"}
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, cwd=ROOT, env=quiet, text=True, stdin=pipe, stdout=pipe, stderr=messages)
    assert process.stdin
    assert process.stdout
    try:
        yield process
        process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):  # it has answered all: that it ends slowly is no failure
            process.wait(timeout=60)
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            with contextlib.suppress(BrokenPipeError):  # of what it never read
                stream.close()


def step(server: Peer, request: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """One step; the seconds exclude start-up. Raises `RuntimeError` when it failed or the process has ended.

    `request` says which step where a process knows several (ours); a peer knows one.
    """
    assert server.stdin
    assert server.stdout
    with contextlib.suppress(BrokenPipeError):  # it has ended, as is found below
        server.stdin.write(json.dumps(request or {}) + "\n")
        server.stdin.flush()
    line = server.stdout.readline()
    if not line:
        raise RuntimeError(f"{server.args!r} ended with exit code {server.wait()}; its messages are above.")
    row: dict[str, Any] = json.loads(line)
    if "error" in row:
        raise RuntimeError(row["error"])
    return row
