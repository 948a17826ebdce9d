"""From a recipe to a run: what cannot work is refused before anything is written."""

from __future__ import annotations

from pathlib import Path

import pytest
from runs import recipe

from sieverl.errors import DataError, UsageError
from sieverl.training.setup import prepare


def test_sizes_that_cannot_work_are_refused_with_the_arithmetic(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at most 4"):
        recipe(tmp_path, train__minibatches=5)
    with pytest.raises(UsageError, match="groups of one"):
        prepare(recipe(tmp_path / "x", rollout__samples=1))
    with pytest.raises(UsageError, match="together"):
        prepare(recipe(tmp_path / "x", rollout__max_tokens=100_000), say=lambda t: None)
    with pytest.raises(DataError, match="max_prompt_tokens"):
        prepare(recipe(tmp_path / "x", data__max_prompt_tokens=2), say=lambda t: None)
    assert not (tmp_path / "x").exists(), "nothing half-written"


def test_M17_a_bfloat16_engine_counts_as_off_policy(tmp_path: Path) -> None:
    """It rounds on its own: 0.006 nats from the learner in the mean, more than the clip of gspo."""
    for dtype, off_policy in (("float32", False), ("bfloat16", True)):
        run = prepare(recipe(tmp_path / dtype, dtype=dtype), say=lambda text: None)
        with run:
            assert run.learner.off_policy_engine == off_policy


def test_M17_a_ratio_to_the_engine_within_a_clip_below_its_rounding_is_refused(tmp_path: Path) -> None:
    changes = {"algorithm": "gspo", "dtype": "bfloat16", "train__old": "engine"}
    with pytest.raises(UsageError, match="gspo clips the ratio at"):
        prepare(recipe(tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()
