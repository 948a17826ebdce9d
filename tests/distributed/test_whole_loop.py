"""`sieverl train` under torchrun: both ranks save and leave on SIGTERM, and the run goes on where it stopped."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from launch import launch, run
from runs import newest_step, same_run
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from sieverl.errors import ExitCode
from sieverl.run_dir import manifest

SHARDED = ("distributed.strategy=fsdp", "checkpoint.format=sharded")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three steps on one process."""
    folder = tmp_path_factory.mktemp("alone")
    run(folder, 1, 3, "reinforce_rej")
    return folder / "reinforce_rej"


def stop_after_one_step(folder: Path, *options: str) -> Path:
    """A run of two ranks that a signal stops after its first step; its checkpoint."""
    errors = launch("stopped.py", 2, folder, 1, "algorithm=reinforce_rej", "steps=3", *options, fails=True)
    assert (folder / "rank-0").exists(), errors[-3000:]  # torchrun kills what takes over 30 s
    assert [(folder / f"rank-{n}").read_text() for n in (0, 1)] == [str(int(ExitCode.PREEMPTED))] * 2
    assert newest_step(folder / "run") == 1
    return folder / "run" / "checkpoints" / "step-1"


def test_replicated(alone: Path, tmp_path: Path) -> None:
    checkpoint = stop_after_one_step(tmp_path)
    assert (checkpoint / "training.safetensors").is_file()
    launch("stopped.py", 2, tmp_path, 0, "algorithm=reinforce_rej", "steps=3")
    same_run(alone, tmp_path / "run")


def test_sharded_with_a_checkpoint_in_parts_that_one_process_goes_on_from(alone: Path, tmp_path: Path) -> None:
    """Each rank writes its half; two ranks go on from it, then one does; transformers loads it."""
    checkpoint = stop_after_one_step(tmp_path, *SHARDED)
    parts = sorted(file.stat().st_size for file in (checkpoint / "training").iterdir())
    assert len(parts) == 2
    assert parts[1] < 1.1 * parts[0]
    launch("stopped.py", 2, tmp_path, 0, "algorithm=reinforce_rej", "steps=2", *SHARDED)
    launch("stopped.py", 1, tmp_path, 0, "algorithm=reinforce_rej", "steps=3", "checkpoint.format=sharded")
    same_run(alone, tmp_path / "run")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "checkpoints" / "step-3", dtype=torch.float64)
    ours = load_file(alone / "checkpoints" / "step-3" / "model.safetensors")
    for name, x in theirs.state_dict().items():
        torch.testing.assert_close(x, ours.get(name, x), rtol=1e-9, atol=1e-9)
    damaged = checkpoint / "training" / sorted(p.name for p in (checkpoint / "training").iterdir())[1]
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    assert manifest.verify_manifest(checkpoint) == f"training/{damaged.name} has changed"
    damaged.unlink()
    assert manifest.verify_manifest(checkpoint) == f"training/{damaged.name} is missing"


def saved(checkpoint: Path) -> list[tuple[str, bytes]]:
    """All tensors of a checkpoint; which rank writes one that all hold, and the order in a file, may differ."""
    files = [load_file(path) for path in checkpoint.rglob("*.safetensors")]
    return sorted((name, x.numpy().tobytes()) for tensors in files for name, x in tensors.items())


@pytest.mark.slow
def test_two_ranks_resume_to_the_bit(tmp_path: Path) -> None:
    """ppo: with a critic of its own, which is in the checkpoint too."""
    for name, ends in (("once", (3,)), ("twice", (2, 3))):
        for steps in ends:
            run(tmp_path / name, 2, steps, "ppo", *SHARDED)
    same_run(tmp_path / "once" / "ppo", tmp_path / "twice" / "ppo", relative=0)
    states = [saved(tmp_path / name / "ppo" / "checkpoints" / "step-3") for name in ("once", "twice")]
    assert states[0] == states[1]
