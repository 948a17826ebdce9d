"""Steps of one run, sampling ahead of training or taking turns: `python -m bench.ours_ahead --staleness 1 ...`.

Prints one JSON line: seconds a step over all measured steps, what part of it the learner waited, and the update's.
"""

from __future__ import annotations

import argparse
import tempfile
import time

from bench.peers.serve import open_output, peak_mb
from sieverl.assets import RECIPE
from sieverl.recipe import load
from sieverl.training.loop import one_step
from sieverl.training.setup import prepare

WARM_UP = 3  # steps that are not counted; an engine in a process of its own has its first batches then


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--staleness", type=int, required=True)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=1, help="passes over a batch, so that both halves take as long")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    write = open_output()
    with tempfile.TemporaryDirectory() as folder:
        changes = {
            "run_dir": f"{folder}/run",
            "algorithm": "grpo",
            "threads": 1,
            "seed": options.seed,
            "steps": 10**6,
            "evaluate.source": "",
            "evaluate.every": 0,
            "rollout.staleness": options.staleness,
            "train.epochs": options.epochs,
        }
        with prepare(load(RECIPE, changes), say=lambda text: None) as run:
            for _ in range(WARM_UP):
                one_step(run)
            began = time.perf_counter()
            rows = [one_step(run) for _ in range(options.steps)]
            seconds = (time.perf_counter() - began) / options.steps
    mean = {name: sum(row[f"time/{name}"] for row in rows) / len(rows) for name in ("rollout", "update")}
    write({"seconds": seconds, **mean, "peak_mb": peak_mb()})


if __name__ == "__main__":
    main()
