"""The recipe: written and read again it is the same, and an old key or value names the new one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sieverl.assets import RECIPE
from sieverl.errors import UsageError
from sieverl.recipe import Recipe, build, load, to_toml


def test_recipes_survive_writing_and_reading(tmp_path: Path) -> None:
    recipe = build({"model": {"path": 'a "quoted" \\ path'}, "verify": {"name": "math", "boxes": "last"}})
    (tmp_path / "r.toml").write_text(to_toml(recipe))
    assert load(tmp_path / "r.toml") == recipe
    assert Recipe() == build({})


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("axes.over", "kept", "axes.over is now called axes.denominator"),
        ("axes.penalty_over", "kept", "axes.penalty_over is now called axes.penalty_denominator"),
        ("rollout.max_rows", "9", "rollout.max_rows is now called rollout.max_num_seqs"),
        ("train.reference", "start", "train.reference = 'start' is now called 'initial'"),
    ],
)
def test_an_old_key_or_value_names_the_new_one(key: str, value: str, said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        load(RECIPE, {key: value})
