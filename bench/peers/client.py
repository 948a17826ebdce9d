"""Drive a peer that waits in a process of its own, so that its steps can alternate with ours in one run."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.peers.venv import ROOT

Peer = subprocess.Popen[str]


@contextmanager
def peer(python: Path, module: str, *options: object) -> Iterator[Peer]:
    """Start `python -m bench.peers.MODULE OPTIONS`; its messages go to standard error. It is closed at the end."""
    command = [str(python), "-m", f"bench.peers.{module}", *map(str, options)]
    server = subprocess.Popen(command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        yield server
        assert server.stdin
        server.stdin.close()
        server.wait(timeout=60)
    finally:
        server.kill()
        server.wait()


def step(server: Peer) -> dict[str, Any]:
    """One step of the peer; the seconds exclude start-up. Raises `RuntimeError` when the peer has ended."""
    assert server.stdin
    assert server.stdout
    server.stdin.write("step\n")
    server.stdin.flush()
    line = server.stdout.readline()
    if not line:
        raise RuntimeError(f"{server.args!r} ended with exit code {server.wait()}; its messages are above.")
    return json.loads(line)
