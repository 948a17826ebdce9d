"""What training does to greedy answers, pass@k and longer sums: `python studies/before_and_after.py OUTPUT.json`.

Trains the demo from both shipped models with three seeds, and evaluates the models before and after on the demo's
held-out prompts and on sums of five and six terms, which are in no corpus. What is there is not measured again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import sieverl
from sieverl.assets import RECIPE
from sieverl.study.process import own_environment

MODELS, SEEDS, K = ("base", "hasty"), (1, 2, 3), 16
TASK = "reasoning_gym:basic_arithmetic"
LONGER = {**tomllib.loads(RECIPE.read_text())["evaluate"]["options"], "min_terms": 5, "max_terms": 6}
OPTIONS = {name: value if name == "prompt" else json.dumps(value) for name, value in LONGER.items()}
BENCHMARKS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("held out", "demo", {}),
    ("five and six terms", TASK, {"source_option": OPTIONS, "max_tokens": 128, "verifier": "math"}),
)


def scores(model: str | Path) -> dict[str, Any]:
    """Scores and right answers a prompt, of greedy answers and of 16 samples at temperature 1, on both benchmarks."""
    found: dict[str, dict[str, Any]] = {}
    for name, benchmark, own in BENCHMARKS:
        found[name] = {}
        for kind, samples in (("greedy", 1), ("sampled", K)):
            greedy = kind == "greedy"
            result = sieverl.evaluate(model, benchmark, samples, greedy=greedy, display=False, limit=256, **own)
            correct = " ".join(str(row["correct"]) for row in result["rows"])
            found[name] |= {kind: result["scores"] | {"correct": correct}, "shares": result["shares"]}
    return found


def trained(model: str, seed: int, folder: Path) -> Path:
    """The run of the demo from a model."""
    run = folder / f"{model}-{seed}"
    keys = {"model.path": model, "seed": seed, "evaluate.every": 0, "checkpoint.every": 0, "run-dir": run, "threads": 1}
    options = [word for key, value in keys.items() for word in (f"--{key}", str(value))]
    command = [sys.executable, "-m", "sieverl", "train", "demo", *options, "--display", "none"]
    subprocess.run(command, check=True, env=own_environment())
    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    output = parser.parse_args().output
    found = json.loads(output.read_text()) if output.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        for model in MODELS:
            for seed in (0, *SEEDS):  # 0: before training
                if (name := f"{model}, seed {seed}" if seed else model) not in found:
                    found[name] = scores(trained(model, seed, Path(folder)) if seed else model)
                    output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
