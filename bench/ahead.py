"""Sampling ahead of training against taking turns: one process samples and one learns, a thread each, on the demo.

The passes over a batch are chosen first, so that both halves of a step take about as long.
"""

from __future__ import annotations

import json
import subprocess
import sys
from argparse import Namespace

from bench.compare import Row, comparison, line, say, values
from bench.peers.venv import ROOT

EPOCHS = (1, 2, 3)


def steps(staleness: int, epochs: int, count: int = 20) -> Row:
    """What one run prints."""
    command = [sys.executable, "-m", "bench.ours_ahead", "--staleness", staleness, "--epochs", epochs, "--steps", count]
    out = subprocess.run([*map(str, command)], cwd=ROOT, check=True, text=True, stdout=subprocess.PIPE).stdout
    found: Row = json.loads(out)
    say(f"  staleness {staleness}, {epochs} passes: {found}")
    return found


def run(workload: str, options: Namespace) -> Row:
    """The line: steps a second with a staleness of 1 against 0."""
    trials = {epochs: steps(0, epochs, 5) for epochs in EPOCHS}
    epochs = min(EPOCHS, key=lambda e: abs(trials[e]["update"] - trials[e]["rollout"]))
    rows: dict[int, list[Row]] = {0: [], 1: []}
    for _ in range(options.repeats or 5):
        for staleness, found in rows.items():
            found.append(steps(staleness, epochs))
    ahead, turns = values(rows[1]), values(rows[0])
    halves = {name: rows[0][0][name] for name in ("rollout", "update")}
    return line("ahead", workload, comparison("a step", ahead, turns), settings={"passes": epochs, **halves})
