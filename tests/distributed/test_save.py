"""A rank that cannot write: all leave, none waits in a collective, and the checkpoint before it stays."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from harm import harm_all
from launch import launch, run
from runs import newest_step
from safetensors import safe_open

from sieverl.distributed import parts
from sieverl.distributed.world import World

SHARDED = ("distributed.strategy=fsdp", "checkpoint.format=sharded")


@pytest.mark.parametrize(
    ("rank", "how", "options"), [(0, "watcher", ()), (1, "watcher", ()), (1, "limit", SHARDED), (0, "watcher", SHARDED)]
)
def test_one_rank_raises_inside_a_save_and_all_leave(
    tmp_path: Path, rank: int, how: str, options: tuple[str, ...]
) -> None:
    """With `limit` the rank's own part is what cannot be written, by the writer of torch.distributed.checkpoint."""
    errors = launch("save_fails.py", 2, tmp_path, rank, how, *options, fails=True)
    assert "cannot write the checkpoint of step 2" in errors
    assert ("No space left on device" if how == "watcher" else "File too large") in errors
    assert how == "watcher" or errors.count("cannot write the checkpoint of step 2") >= 2, "both ranks say so"
    assert newest_step(tmp_path / "r") == 1


@pytest.mark.slow
def test_a_thousand_corruptions_of_a_sharded_checkpoint_are_all_found(tmp_path: Path) -> None:
    """Two ranks wrote it, one step ahead: a file of each, batches that wait, weights with an index."""
    options = ("rollout.staleness=1", "evaluate.source=", "evaluate.every=0", "rollout.prompts=2", *SHARDED)
    run(tmp_path, 2, 3, "grpo", *options)
    for step in (1, 2):  # the queue is empty after the last step
        (tmp_path / "grpo" / "checkpoints" / f"step-{step}").rename(tmp_path / f"step-{step}")
    harmed = harm_all(tmp_path, tmp_path / "copies", 1000)
    assert len([name for name in harmed if name.startswith("training/shard-")]) == 2
    assert {"queue.safetensors", "model.safetensors.index.json", "manifest.json"} < set(harmed)


def test_a_sharded_state_is_laid_out_by_name(tmp_path: Path) -> None:
    """A restored optimiser has its tensors in another order, and ranks wrote others than before; found by killing."""
    tensors, notes = {"step": torch.zeros(()), "exp_avg": torch.ones(2)}, []
    for number, order in enumerate((tensors, dict(reversed(tensors.items())))):
        parts.write(tmp_path / str(number), order, World())
        (file,) = (tmp_path / str(number)).iterdir()
        with safe_open(file, framework="pt") as handle:
            notes.append(handle.metadata())
    assert notes[0] == notes[1]
