"""One run on one process and on several, replicated and sharded: the same tokens, rewards and losses in float64."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from launch import run
from runs import comparable, same_run
from safetensors.torch import load_file


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three steps on one process."""
    folder = tmp_path_factory.mktemp("alone")
    run(folder, 1, 3, "reinforce_rej", "train.minibatches=2")
    return folder


@pytest.mark.slow
def test_a_checkpoint_of_one_process_resumes_sharded(alone: Path, tmp_path: Path) -> None:
    run(tmp_path, 1, 1, "reinforce_rej", "train.minibatches=2")
    run(tmp_path, 2, 3, "reinforce_rej", "train.minibatches=2", "distributed.strategy=fsdp")
    same_run(alone / "reinforce_rej", tmp_path / "reinforce_rej")


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["replicated", "fsdp"])
def test_resampling_critics_and_pairs(tmp_path: Path, strategy: str) -> None:
    """dapo resamples, ppo has a critic of its own, iterative_dpo learns from pairs and needs the reference policy."""
    names = "dapo,ppo,iterative_dpo"
    run(tmp_path / "one", 1, 4, names, "train.minibatches=2")
    run(tmp_path / "two", 2, 4, names, "train.minibatches=2", f"distributed.strategy={strategy}")
    for name in names.split(","):
        same_run(tmp_path / "one" / name, tmp_path / "two" / name)


@pytest.mark.slow
def test_sampling_ahead_of_training(tmp_path: Path) -> None:
    """Each rank's engine runs in a process of its own, beside the collectives of a sharded update."""
    options = ("rollout.staleness=1", "train.minibatches=2", "train.lr=1e-3")
    run(tmp_path / "one", 1, 4, "grpo", *options)
    run(tmp_path / "two", 2, 4, "grpo", *options, "distributed.strategy=fsdp")
    same_run(tmp_path / "one" / "grpo", tmp_path / "two" / "grpo")
    for step in (3, 4):  # as if it had been killed before; the batch that waited is that of two ranks
        shutil.rmtree(tmp_path / "two" / "grpo" / "checkpoints" / f"step-{step}")
    run(tmp_path / "two", 1, 4, "grpo", *options)
    same_run(tmp_path / "one" / "grpo", tmp_path / "two" / "grpo")


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
