"""Sampling ahead of training: a fixed lag, a queue that survives a stop, and objectives that can correct for it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from runs import GYM, NOT_EVALUATED, comparable, recipe, run_it
from safetensors.torch import load_file

from sieverl.errors import UsageError
from sieverl.run_dir.rollouts import read_rollouts
from sieverl.training.setup import prepare

AHEAD: dict[str, Any] = {"algorithm": "grpo", "steps": 4, "train__lr": 1e-3, "rollout__staleness": 1}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four steps without a stop."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    run_it(folder, **AHEAD)
    return folder


def test_the_lag_is_fixed_and_logged(whole: Path) -> None:
    assert [row["policy/staleness"] for row in comparable(whole)[1:]] == [0, 1, 1, 1]
    versions = [{row.policy_version for row in read_rollouts(whole, step)} for step in (1, 2, 3, 4)]
    assert versions == [{0}, {0}, {1}, {2}]
    gaps = [row["policy/engine_mismatch"] for row in comparable(whole)[1:]]
    assert gaps[0] < 1e-9 < min(gaps[1:]), "log-probs are those of the weights that sampled"


def test_a_resumed_run_goes_on_with_the_responses_that_waited(whole: Path, tmp_path: Path) -> None:
    for step in (1, 3):
        copy = tmp_path / f"from-{step}"
        shutil.copytree(whole, copy, symlinks=True)
        for later in range(step + 1, 5):
            shutil.rmtree(copy / "checkpoints" / f"step-{later}")
            (copy / "rollouts" / f"step-{later:06d}.parquet").unlink()
        run_it(copy, **AHEAD)
        assert comparable(copy) == comparable(whole)
        ends = [load_file(folder / "checkpoints" / "step-4" / "model.safetensors") for folder in (whole, copy)]
        assert all((ends[0][name] == ends[1][name]).all() for name in ends[0])
        for later in range(step + 1, 5):
            assert read_rollouts(copy, later) == read_rollouts(whole, later)


@pytest.mark.slow
def test_a_longer_queue_with_resampling(tmp_path: Path) -> None:
    options = {**AHEAD, **NOT_EVALUATED, "algorithm": "dapo", "steps": 3, "rollout__staleness": 2}
    run_it(tmp_path / "whole", **options)
    shutil.copytree(tmp_path / "whole", tmp_path / "again", symlinks=True)
    for later in (2, 3):
        shutil.rmtree(tmp_path / "again" / "checkpoints" / f"step-{later}")
    run_it(tmp_path / "again", **options)
    assert comparable(tmp_path / "again") == comparable(tmp_path / "whole")


@pytest.mark.parametrize("staleness", [0, 1])
def test_the_ledger_of_a_sieve_survives_a_stop(tmp_path: Path, staleness: int) -> None:
    few = {"data__options": {**GYM, "size": 6}, "data__check_gold": 0}
    sieve = {"axes__sieve": 0.6, "axes__sieve_explore": 0.1, "rollout__staleness": staleness}
    options = {**AHEAD, **NOT_EVALUATED, **few, **sieve, "steps": 5}
    run_it(tmp_path / "whole", **options)
    rows = comparable(tmp_path / "whole")[1:]
    assert sum(row["select/skipped"] for row in rows) > 0, "prompts come back, and some are passed over"
    assert sum(row["select/stopped"] for row in rows) > 0
    shutil.copytree(tmp_path / "whole", tmp_path / "again", symlinks=True)
    for later in (3, 4, 5):
        shutil.rmtree(tmp_path / "again" / "checkpoints" / f"step-{later}")
    run = run_it(tmp_path / "again", **options)
    assert comparable(tmp_path / "again") == comparable(tmp_path / "whole")
    assert run.state.ledger.batches == 5


def test_without_staleness_nothing_runs_ahead(tmp_path: Path) -> None:
    run = run_it(tmp_path / "run", steps=2, **NOT_EVALUATED)
    assert [row["policy/staleness"] for row in comparable(tmp_path / "run")[1:]] == [0, 0]
    assert not run.ahead


@pytest.mark.parametrize("algorithm", ["rloo", "raft", "iterative_dpo", "remax"])
def test_an_objective_without_a_ratio_is_refused(tmp_path: Path, algorithm: str) -> None:
    with pytest.raises(UsageError, match=r"no importance ratio .* use rollout.staleness = 0, or an algorithm"):
        prepare(recipe(tmp_path / "run", algorithm=algorithm, rollout__staleness=1))
    assert not (tmp_path / "run").exists()
