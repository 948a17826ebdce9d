"""Seconds of training to +15 points on the demo task against TRL: same model, prompts, algorithm (grpo), settings.

One run of each a seed, in turns; evaluation and loading stop the clock. Speed settings are swept as in `rl_step`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from statistics import median
from typing import Any

from bench.compare import Row, comparison, line, model_of, say
from bench.peers.venv import ROOT, ensure_venv
from bench.rl_step import best, sweep_ours, sweep_peer
from bench.workloads import SHORT, demo_prompts, write_prompts

TRAINED, HELD = 6400, 256  # prompts
SETTINGS = {"learning-rate": 2e-4, "warmup-steps": 5, "adam-beta2": 0.95, "max-tokens": SHORT.max_tokens}  # the demo's


def curve(python: Path | str, module: str, arguments: list[object]) -> list[Row]:
    """The lines that one training prints."""
    command = [str(python), "-m", module, *map(str, arguments)]
    out = subprocess.run(command, cwd=ROOT, check=True, text=True, stdout=subprocess.PIPE).stdout
    return [json.loads(text) for text in out.splitlines()]


def reached(rows: list[Row], gain: float) -> float:
    """Seconds at the first evaluation that is up by `gain`. Raises `RuntimeError` when none is.

    >>> reached([{"seconds": 0, "accuracy": 0.2}, {"seconds": 9, "accuracy": 0.4}], 0.15)
    9
    """
    for row in rows:
        if row["accuracy"] >= rows[0]["accuracy"] + gain:
            return row["seconds"]
    raise RuntimeError(f"accuracy went from {rows[0]['accuracy']:.3f} to {rows[-1]['accuracy']:.3f}, not up by {gain}")


def run(workload: str, options: Namespace) -> Row:
    """The line: medians over `options.seeds` seeds; each seed has prompts in another order, the same for both."""
    model, python = model_of(workload), ensure_venv("trl")
    held = model / "evaluation.jsonl"
    write_prompts(held, demo_prompts(model, "evaluate", HELD))
    train = demo_prompts(model, "data", TRAINED)
    ours, theirs = best(sweep_ours(workload, model)), best(sweep_peer(workload, model, python))
    curves: dict[str, list[list[Row]]] = {"ours": [], "TRL": []}
    for seed in range(options.seeds):
        first = seed * TRAINED // options.seeds
        prompts = model / f"train-{seed}.jsonl"
        write_prompts(prompts, train[first:] + train[:first])
        common: dict[str, Any] = {
            "model": model,
            "prompts": prompts,
            "evaluation": held,
            "seed": seed,
            "gain": options.gain,
            "steps": options.steps,
            "every": options.every,
            **SETTINGS,
        }
        sides: dict[str, tuple[Path | str, str, dict[str, Any]]] = {
            "ours": (sys.executable, "bench.ours_accuracy", ours),
            "TRL": (python, "bench.peers.trl_accuracy", theirs),
        }
        for name, (program, module, speed) in sides.items():
            arguments = [part for key, value in {**common, **speed}.items() for part in (f"--{key}", value)]
            curves[name].append(curve(program, module, arguments))
            say(f"  seed {seed}, {name}: {curves[name][-1][-1]}")
    seconds = {name: [reached(rows, options.gain) for rows in found] for name, found in curves.items()}
    steps = {name: [rows[-1]["step"] for rows in found] for name, found in curves.items()}
    return line(
        "time_to_accuracy",
        workload,
        comparison(f"seconds of training to +{options.gain * 100:.0f} points, grpo", seconds["ours"], seconds["TRL"]),
        settings={"ours": ours, "peer": theirs, **SETTINGS},
        steps=steps,
        start={name: median(rows[0]["accuracy"] for rows in found) for name, found in curves.items()},
    )
