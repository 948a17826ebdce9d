"""What several processes refuse, groups of ranks, LoRA, and ranks without work."""

from __future__ import annotations

from pathlib import Path

import pytest
from launch import launch, run
from runs import comparable, recipe, same_run

from sieverl.distributed.world import World
from sieverl.errors import UsageError
from sieverl.training.checks import check_world

NOT_EVALUATED = ("evaluate.source=", "evaluate.every=0")


def test_ranks_that_make_no_whole_groups_are_refused_with_the_arithmetic(tmp_path: Path) -> None:
    wanted = recipe(tmp_path, distributed__strategy="fsdp", distributed__shard_size=4)
    check_world(wanted, World(0, 8))
    check_world(wanted, World())  # one process has nothing to shard with
    with pytest.raises(
        UsageError, match=r"6 = 1 x 4 \+ 2; start a multiple of 4 ranks, or set it to one of 1, 2, 3, 6"
    ):
        check_world(wanted, World(0, 6))


def test_an_offload_to_where_the_weights_are_is_refused(tmp_path: Path) -> None:
    wanted = recipe(tmp_path, distributed__strategy="fsdp", distributed__cpu_offload=True, model__device="cpu")
    with pytest.raises(UsageError, match="they are there already"):
        check_world(wanted, World())


@pytest.mark.parametrize("key", ["shard_size", "cpu_offload"])
def test_options_of_sharding_need_sharding(tmp_path: Path, key: str) -> None:
    with pytest.raises(UsageError, match=rf"distributed\.{key} is an option of sharding"):
        recipe(tmp_path, **{f"distributed.{key}": 1 if key == "shard_size" else True})


@pytest.mark.slow
def test_two_groups_of_two_ranks_that_compute_their_blocks_again(tmp_path: Path) -> None:
    """HSDP and activation checkpointing on four ranks, and a checkpoint in four parts, against one process."""
    options = ("train.minibatches=2", *NOT_EVALUATED)
    shared = ("distributed.strategy=fsdp", "distributed.shard_size=2", "distributed.activation_checkpointing=true")
    run(tmp_path / "one", 1, 3, "reinforce_rej", *options)
    run(tmp_path / "four", 4, 2, "reinforce_rej", *options, *shared, "checkpoint.format=sharded")
    run(tmp_path / "four", 1, 3, "reinforce_rej", *options)
    same_run(tmp_path / "one" / "reinforce_rej", tmp_path / "four" / "reinforce_rej")


@pytest.mark.slow
@pytest.mark.parametrize("reference", ["initial", "last"])
def test_adapters_with_a_penalty_to_the_reference_policy(tmp_path: Path, reference: str) -> None:
    """LoRA under FSDP2, with a checkpoint in parts that is resumed; float32, since adapters know no float64."""
    options: tuple[str, ...] = ("dtype=float32", *NOT_EVALUATED, "model.lora.rank=2", "axes.kl_coefficient=0.1")
    options += ("train.minibatches=2", f"train.reference={reference}")
    run(tmp_path / "one", 1, 2, "grpo", *options)
    sharded = ("distributed.strategy=fsdp", "checkpoint.format=sharded")
    run(tmp_path / "two", 2, 1, "grpo", *options, *sharded)
    run(tmp_path / "two", 2, 2, "grpo", *options, *sharded)
    one, two = (comparable(tmp_path / name / "grpo") for name in ("one", "two"))
    assert two[1]["train/loss"] == pytest.approx(one[1]["train/loss"], abs=1e-5)
    assert two[1]["train/grad_norm"] == pytest.approx(one[1]["train/grad_norm"], rel=1e-3)
    assert len(two) == len(one)
    assert two[2]["train/updates"] == one[2]["train/updates"]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["replicated", "fsdp"])
def test_more_ranks_than_work(tmp_path: Path, strategy: str) -> None:
    """Three ranks with two prompts: one samples nothing, steps keep few responses or none, and nobody waits."""
    options = ("rollout.prompts=2", "rollout.samples=2", "train.minibatches=2", "evaluate.limit=2")
    run(tmp_path / "one", 1, 4, "reinforce_rej,ppo", *options)
    run(tmp_path / "three", 3, 4, "reinforce_rej,ppo", *options, f"distributed.strategy={strategy}")
    for name in ("reinforce_rej", "ppo"):
        same_run(tmp_path / "one" / name, tmp_path / "three" / name)
    kept = [row["select/kept_fraction"] for row in comparable(tmp_path / "three" / "reinforce_rej")[1:]]
    assert 0.0 in kept, "a step with nothing kept on any rank"


@pytest.mark.slow
@pytest.mark.parametrize("group", [0, 2])
def test_a_block_computed_again_keeps_less_under_sharding(tmp_path: Path, group: int) -> None:
    """`kept_bytes.py`: gradients are those of one process to 1e-12, and the bytes kept for the backward are counted."""
    launch("kept_bytes.py", 2 if group == 0 else 4, group)
