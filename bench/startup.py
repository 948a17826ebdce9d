"""Start-up time: `sieverl --help`, imports, and the first batch of responses."""

from __future__ import annotations

import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

from bench.compare import Row, comparison, line, model_of, say
from bench.peers.client import peer, server, step
from bench.peers.venv import ROOT, ensure_venv


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _command(*command: object) -> Callable[[], object]:
    return lambda: subprocess.run(list(map(str, command)), cwd=ROOT, check=True, capture_output=True)


def run(workload: str, options: Namespace) -> Row:
    """The line of one workload; the sides of a pair alternate, and the first run of each warms the disk cache."""
    model, trl = model_of(workload), ensure_venv("trl")
    where = ("--workload", workload, "--model", model)
    commands = Path(sys.executable).parent, trl.parent

    def ours_first() -> None:
        with server(sys.executable, "bench.ours", *where) as process:
            step(process, {"do": "rollout"})

    def peer_first() -> None:
        with peer(trl, "generate", *where) as process:
            step(process)

    pairs: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "--help (sieverl, trl)": (_command(commands[0] / "sieverl", "--help"), _command(commands[1] / "trl", "--help")),
        "import sieverl, import trl": (
            _command(sys.executable, "-c", "import sieverl"),
            _command(trl, "-c", "import trl"),
        ),
        "import the training loop (sieverl, trl.GRPOTrainer)": (
            _command(sys.executable, "-c", "import sieverl.training.loop"),
            _command(trl, "-c", "from trl import GRPOTrainer"),
        ),
        "process start to the end of the first rollout (peer: transformers generate)": (ours_first, peer_first),
    }
    found = []
    for name, (ours, theirs) in pairs.items():
        seconds = [(_seconds(ours), _seconds(theirs)) for _ in range((options.repeats or 5) + 1)][1:]
        found.append(comparison(name, [a for a, _ in seconds], [b for _, b in seconds]))
        say(f"  {name}: {found[-1]['ours']} s, {found[-1]['peer']} s")
    return line("startup", workload, found[0], found[1:])
