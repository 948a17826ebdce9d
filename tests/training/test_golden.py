"""Golden curves: ten steps of the shipped model per algorithm in float64, the same as when they were written down.

Kept sets are compared exactly, numbers to 1e-6. `PYTHONPATH=tests python tests/training/test_golden.py --write
[NAMES]` writes them again, which is right only after a change that is meant to change what is learnt. In float64 the
sampled tokens do not depend on the machine's BLAS, unless a draw falls within its rounding error of 1e-15: set
ATEN_CPU_CAPABILITY=default and MKL_ENABLE_INSTRUCTIONS=SSE4_2 to run the tests on other kernels.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from conftest import ROOT

from sieverl.algorithms import ALGORITHMS
from sieverl.assets import RECIPE
from sieverl.recipe import load
from sieverl.run_dir.rollouts import rollout_path
from sieverl.training.loop import train
from sieverl.training.setup import prepare

GOLDEN = ROOT / "tests" / "golden"
QUICK = ("reinforce_rej", "grpo", "ppo")
STEPS = 10
NUMBERS = {"loss": "train/loss", "entropy": "policy/entropy", "grad_norm": "train/grad_norm"}
SIZES: dict[str, Any] = {
    "steps": STEPS,
    "threads": 1,
    "dtype": "float64",
    "model.path": "",  # the base model, which solves some prompts of a few and not others
    "data.options.size": 200,
    "data.check_gold": 0,
    "evaluate.source": "",
    "evaluate.every": 0,
    "rollout.prompts": 4,
    "rollout.samples": 4,
    "rollout.max_tokens": 40,
    "train.minibatches": 2,
    "train.epochs": 2,  # with one, ratios stay within the clip, and raft_pp and its ablations learn the same
    "train.warmup_updates": 0,
    "verify.workers": 1,
}


def curve(name: str, run_dir: Path) -> list[dict[str, Any]]:
    """What was kept in each step, as (group, sample), and the step's numbers."""
    run = prepare(load(RECIPE, {**SIZES, "algorithm": name, "run_dir": str(run_dir)}), say=lambda text: None)
    with run:
        train(run)
    out = []
    for row in run.metrics.rows()[1:]:
        sampled = pq.read_table(rollout_path(run_dir, row["step"])).to_pylist()
        kept = sorted([r["group"], r["sample"]] for r in sampled if r["kept"])
        out.append({"kept": kept, "sampled": len(sampled)} | {short: row[key] for short, key in NUMBERS.items()})
    return out


def read(name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))
    return rows


def write(name: str) -> None:
    """One step a line."""
    with tempfile.TemporaryDirectory() as directory:
        rows = [json.dumps(row) for row in curve(name, Path(directory) / name)]
    GOLDEN.mkdir(exist_ok=True)
    (GOLDEN / f"{name}.json").write_text("[\n" + ",\n".join(rows) + "\n]\n", encoding="utf-8")


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in ALGORITHMS])
def test_ten_steps_are_the_golden_ones(name: str, tmp_path: Path) -> None:
    ours, golden = curve(name, tmp_path / name), read(name)
    assert len(ours) == len(golden) == STEPS
    for step, (row, expected) in enumerate(zip(ours, golden, strict=True), 1):
        assert row["sampled"] == expected["sampled"], f"step {step}"
        assert row["kept"] == expected["kept"], f"step {step}"
        for number in NUMBERS:
            assert row[number] == pytest.approx(expected[number], rel=1e-6, abs=1e-6), f"step {step}: {number}"


def test_the_golden_curves_are_those_of_every_algorithm_and_say_something() -> None:
    assert {file.stem for file in GOLDEN.glob("*.json")} == set(ALGORITHMS)
    curves = {name: read(name) for name in ALGORITHMS}
    assert all(sum(row["grad_norm"] > 0 for row in rows) >= 5 for rows in curves.values())
    assert len({json.dumps(rows) for rows in curves.values()}) == len(curves), "no two algorithms learn the same"


if __name__ == "__main__":
    if "--write" not in sys.argv:
        sys.exit("usage: PYTHONPATH=tests python tests/training/test_golden.py --write [NAMES]")
    names = [name for name in sys.argv[1:] if name != "--write"]
    torch.set_num_threads(1)
    for algorithm in names or ALGORITHMS:
        write(algorithm)
        print(algorithm)
