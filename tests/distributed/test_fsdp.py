"""One run on one process and on two, replicated and sharded: the same tokens, rewards and losses in float64."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from conftest import ROOT
from runs import comparable
from safetensors.torch import load_file

from sieverl.run_dir.rollouts import read_rollouts

SCRIPT = str(ROOT / "tests" / "distributed" / "one_run.py")


def run(folder: Path, ranks: int, steps: int, algorithms: str, *options: str) -> None:
    """The run on `ranks` processes of one thread each."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
    command = [sys.executable, *launcher, SCRIPT, str(folder), str(steps), f"algorithms={algorithms}", *options]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def same(one: Path, other: Path, relative: float = 1e-9) -> None:
    """The same responses and rewards, and metrics up to rounding."""
    files = sorted(path.name for path in (one / "rollouts").iterdir())
    assert files == sorted(path.name for path in (other / "rollouts").iterdir())
    for name in files:
        columns = ["response", "reward", "correct"] + (["kept"] if name.startswith("step") else [])
        tables = [pq.read_table(folder / "rollouts" / name, columns=columns) for folder in (one, other)]
        assert tables[0].equals(tables[1]), name
    rows = [[metrics_of_the_work(row) for row in comparable(folder)] for folder in (one, other)]
    assert len(rows[0]) == len(rows[1])
    for mine, theirs in zip(*rows, strict=True):
        assert theirs == pytest.approx(mine, rel=relative, abs=relative, nan_ok=False)


def metrics_of_the_work(row: Mapping[str, float]) -> dict[str, float]:
    """A row without what tells how the ranks shared it."""
    return {name: value for name, value in row.items() if not name.startswith("ranks/")}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three steps on one process."""
    folder = tmp_path_factory.mktemp("alone")
    run(folder, 1, 3, "reinforce_rej", "train.minibatches=2")
    return folder


def test_fsdp_on_two_ranks_gives_the_run_of_one_process_and_its_checkpoint_resumes_there(
    alone: Path, tmp_path: Path
) -> None:
    options = ("train.minibatches=2", "distributed.strategy=fsdp")
    run(tmp_path, 2, 2, "reinforce_rej", *options)
    run(tmp_path, 1, 3, "reinforce_rej", *options)
    same(alone / "reinforce_rej", tmp_path / "reinforce_rej")
    assert len(read_rollouts(tmp_path / "reinforce_rej", 3)) == 16


@pytest.mark.slow
def test_a_checkpoint_of_one_process_resumes_sharded(alone: Path, tmp_path: Path) -> None:
    run(tmp_path, 1, 1, "reinforce_rej", "train.minibatches=2")
    run(tmp_path, 2, 3, "reinforce_rej", "train.minibatches=2", "distributed.strategy=fsdp")
    same(alone / "reinforce_rej", tmp_path / "reinforce_rej")


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["replicated", "fsdp"])
def test_resampling_critics_and_pairs(tmp_path: Path, strategy: str) -> None:
    """dapo resamples, ppo has a critic of its own, iterative_dpo learns from pairs and needs the reference policy."""
    names = "dapo,ppo,iterative_dpo"
    run(tmp_path / "one", 1, 4, names, "train.minibatches=2")
    run(tmp_path / "two", 2, 4, names, "train.minibatches=2", f"distributed.strategy={strategy}")
    for name in names.split(","):
        same(tmp_path / "one" / name, tmp_path / "two" / name)


@pytest.mark.slow
def test_sampling_ahead_of_training(tmp_path: Path) -> None:
    """Each rank's engine runs in a process of its own, beside the collectives of a sharded update."""
    options = ("rollout.staleness=1", "train.minibatches=2", "train.lr=1e-3")
    run(tmp_path / "one", 1, 4, "grpo", *options)
    run(tmp_path / "two", 2, 4, "grpo", *options, "distributed.strategy=fsdp")
    same(tmp_path / "one" / "grpo", tmp_path / "two" / "grpo")
    for step in (3, 4):  # as if it had been killed before; the batch that waited is that of two ranks
        shutil.rmtree(tmp_path / "two" / "grpo" / "checkpoints" / f"step-{step}")
    run(tmp_path / "two", 1, 4, "grpo", *options)
    same(tmp_path / "one" / "grpo", tmp_path / "two" / "grpo")


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("model.lora.rank=2",)], ids=["all weights", "adapters"])
def test_the_first_step_in_float32(tmp_path: Path, options: tuple[str, ...]) -> None:
    """Up to rounding; LoRA knows no float64."""
    options = ("dtype=float32", "evaluate.source=", "evaluate.every=0", *options)
    run(tmp_path / "one", 1, 1, "grpo", *options)
    run(tmp_path / "two", 2, 1, "grpo", *options, "distributed.strategy=fsdp")
    one, two = (comparable(tmp_path / name / "grpo")[-1] for name in ("one", "two"))
    assert two["train/loss"] == pytest.approx(one["train/loss"], abs=1e-5)
    assert two["train/grad_norm"] == pytest.approx(one["train/grad_norm"], rel=1e-3)


@pytest.mark.slow
def test_bfloat16_is_gathered_in_it_and_trained_in_float32(tmp_path: Path) -> None:
    """Two steps and a checkpoint: finite, close to one process, weights float32."""
    options = ("dtype=bfloat16", "evaluate.source=", "evaluate.every=0")
    run(tmp_path / "one", 1, 2, "grpo", *options)
    run(tmp_path / "two", 2, 2, "grpo", *options, "distributed.strategy=fsdp")
    one, two = (comparable(tmp_path / name / "grpo")[1] for name in ("one", "two"))
    assert two["policy/entropy"] == pytest.approx(one["policy/entropy"], rel=0.2)
    assert two["train/grad_norm"] == pytest.approx(one["train/grad_norm"], rel=0.5)
    weights = load_file(tmp_path / "two" / "grpo" / "checkpoints" / "step-2" / "model.safetensors")
    assert {x.dtype for x in weights.values()} == {torch.float32}
