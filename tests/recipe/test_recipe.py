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
from sieverl.recipe.reference import markdown, option, reference, shown


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
    out = "".join(capsys.readouterr().out.split())  # lines are also broken behind a hyphen
    for key in reference():
        kind = key.kind.upper() if key.kind.isalpha() else key.kind
        default = f" (default: {key.default})" if key.default else ""
        assert "".join(f"{option(key.name)} {kind} {key.about}{default}".split()) in out
    assert "learningrate(default:1e-06)" in out


def test_files_then_environment_then_options(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('seed = 1\nsteps = 1\nthreads = 1\n[train]\nlr = 0.1\n[data]\nsource = "a"\n')
    (tmp_path / "b.toml").write_text("seed = 2\nsteps = 2\nthreads = 2\n[train]\nepochs = 2\n")
    environment = {"SIEVERL_STEPS": "3", "SIEVERL_THREADS": "3", "SIEVERL_DATA__COLUMNS": "prompt=q", "STEPS": "9"}
    environment |= {"SIEVERL_ROLLOUT__MAX_TOKENS": "7", "SIEVERL_SEED": ""}
    found = load([tmp_path / "a.toml", tmp_path / "b.toml"], {"threads": "4"}, environment)
    assert (found.seed, found.steps, found.threads) == (2, 3, 4)
    assert (found.train.lr, found.train.epochs, found.data.source) == (0.1, 2, "a")
    assert (found.data.columns, found.rollout.max_tokens) == ({"prompt": "q"}, 7)
    assert load([tmp_path / "b.toml", tmp_path / "a.toml"]).seed == 1
    assert load(tmp_path / "a.toml").seed == 1, "the environment is read only where it is given"


@pytest.mark.parametrize(
    ("files", "environment", "message"),
    [
        (("good", "bad"), {}, "bad.toml: train.lr: "),
        (("bad", "good"), {}, "bad.toml: train.lr: "),
        (("good", "typo"), {}, r"typo.toml: there is no key 'train.lrr'. Did you mean train.lr\?"),
        (("good",), {"SIEVERL_TRAIN__LR": "abc"}, "^SIEVERL_TRAIN__LR: input should be a valid number"),
        (("good",), {"SIEVERL_TRAIN__LRR": "1"}, r"^SIEVERL_TRAIN__LRR: there is no key 'train.lrr'. Did you mean"),
        (("good",), {"SIEVERL_SEED__X": "1"}, "^SIEVERL_SEED__X: seed is a value, not a table"),
        (("good", "none"), {}, "there is no recipe .*none.toml"),
    ],
)
def test_a_fault_names_the_file_or_the_variable(
    tmp_path: Path, files: tuple[str, ...], environment: dict[str, str], message: str
) -> None:
    texts = {"good": "seed = 1\n[train]\nepochs = 1\n", "bad": '[train]\nlr = "abc"\n', "typo": "[train]\nlrr = 1\n"}
    for name, text in texts.items():
        (tmp_path / f"{name}.toml").write_text(text)
    with pytest.raises(UsageError, match=message):
        load([tmp_path / f"{name}.toml" for name in files], {}, environment)
