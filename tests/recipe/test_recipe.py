"""The recipe: written and read again it is the same, and an old key or value names the new one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from conftest import ROOT

from sieverl.assets import RECIPE
from sieverl.cli import main
from sieverl.errors import UsageError
from sieverl.recipe import Recipe, build, load, to_toml
from sieverl.recipe.reference import markdown, reference, shown


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


@pytest.mark.parametrize("text", [f"seed = {'9' * 5000}", f"steps = {'[' * 5000}", "steps = 1\xff", "steps = '"])
def test_fuzz_numbers_of_thousands_of_digits_and_endless_brackets_are_no_toml(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.toml").write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError, match="is not valid TOML"):
        load(tmp_path / "r.toml")


@pytest.mark.parametrize("value", ["9" * 5000, "[" * 5000])
def test_fuzz_such_an_option_is_text(value: str) -> None:
    with pytest.raises(UsageError, match=r"steps: .* integer.*\.\.\.") as error:
        build({}, {"steps": value})
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("key", ["steps", "rollout.prompts", "train.lr", "data.options.seed", "evaluate.options.x"])
def test_fuzz_numbers_of_more_than_64_bits_are_refused(key: str) -> None:
    with pytest.raises(UsageError, match=rf"{key}.* (64 bits|number)"):
        build({}, {key: "9" * 400})


def test_S9_every_key_has_a_type_a_default_that_it_takes_and_a_sentence() -> None:
    for key in reference():
        assert key.kind not in ("", "table"), key
        assert len(key.about) > 4, key
        if key.default:
            found: object = build({}, {key.name: key.default}).model_dump()
            for part in key.name.split("."):
                found = found[part]  # type: ignore[index]
            assert shown(found) == key.default, key


def test_S9_the_page_of_the_recipe_is_made_from_its_fields() -> None:
    assert (ROOT / "docs" / "recipe.md").read_text().endswith(markdown())


def test_S9_the_help_of_train_has_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    out = capsys.readouterr().out
    for key in reference():
        assert f"--{key.name} {key.kind}\n" in out
        assert key.about in out
    assert "learning rate (default: 1e-06)" in out
