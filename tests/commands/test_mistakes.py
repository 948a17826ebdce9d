"""Mistakes that a new user made, by the number of their row: what the command says now."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sieverl import __version__
from sieverl.cli import main
from sieverl.commands.demo import called
from sieverl.commands.parser import parse
from sieverl.options import PLAIN_KEYS, parse_keys
from sieverl.recipe import Recipe, build, keys
from sieverl.recipe.names import ELSEWHERE, meant
from sieverl.verify import build as build_verifier

Capture = pytest.CaptureFixture[str]


def said(capsys: Capture, *arguments: str) -> str:
    """What a command that must be refused says."""
    try:
        code = main(arguments)
    except SystemExit as left:
        code = int(str(left.code))
    assert code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "hint"),
    [
        ("--lr", "train.lr"),
        ("--lerning_rate", "train.lr"),
        ("--train.learning_rate", "train.lr"),
        ("--num_generations", "rollout.samples"),
        ("--train.max_completion_length", "rollout.max_tokens"),
        ("--save-steps", "checkpoint.every"),
        ("--samples", "rollout.samples"),
        ("--rollout.samplez", "rollout.samples"),
        ("--output_dir", "run_dir"),
    ],
)
def test_S9_a_key_of_elsewhere_or_a_part_of_one_names_ours(work: Path, capsys: Capture, option: str, hint: str) -> None:
    assert f"Did you mean {hint}?" in said(capsys, "train", "r.toml", option, "1")


def test_every_name_of_elsewhere_is_one_of_ours_and_none_of_them_is_a_key() -> None:
    known = [name for name, _ in keys()]
    assert set(ELSEWHERE.values()) <= set(known)
    assert not set(ELSEWHERE) & set(known)
    assert all(meant(name, known) == f" Did you mean {ours}?" for name, ours in ELSEWHERE.items())


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("--train.lr=abc", "--train.lr: input should be a valid number"),
        ("--steps=many", "--steps: input should be a valid integer"),
        ("--train.betas=0.9", "--train.betas: "),
        ("--model.lora.rank=-1", "--model.lora.rank: "),
    ],
)
def test_S16_a_value_that_cannot_be_names_its_option(work: Path, capsys: Capture, argument: str, expected: str) -> None:
    found = said(capsys, "train", "r.toml", argument)
    assert expected in found
    assert "r.toml" not in found


def test_S16_a_value_of_the_file_names_the_file(work: Path, capsys: Capture) -> None:
    (work / "r.toml").write_text('[train]\nlr = "abc"\n')
    assert "r.toml: train.lr: " in said(capsys, "train", "r.toml", "--train.epochs=2")


def test_lists_and_tables_on_the_command_line() -> None:
    found = build({}, {"train.betas": "0.9,0.99", "data.columns": "prompt=text, answer=label", "rollout.stop": "a,b"})
    assert found.train.betas == (0.9, 0.99)
    assert found.data.columns == {"prompt": "text", "answer": "label"}
    assert list(found.rollout.stop) == ["a", "b"]
    whole = build({}, {"train.betas": "[0.9, 0.99]", "rollout.stop": '["a,b"]', "data.suffix": "a,b=c"})
    assert (whole.train.betas, list(whole.rollout.stop), whole.data.suffix) == ((0.9, 0.99), ["a,b"], "a,b=c")
    assert Recipe().train.betas == (0.9, 0.999)


def test_an_unknown_command_and_the_version(capsys: Capture) -> None:
    assert "Did you mean train?" in said(capsys, "trian")
    assert "Did you mean" not in said(capsys, "xyz")
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"sieverl {__version__}\n"


def test_S14_what_is_advised_can_be_typed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert called(str(tmp_path / ".venv" / "bin" / "sieverl")) == ".venv/bin/sieverl"
    assert called("/elsewhere/sieverl/__main__.py") == "python -m sieverl"
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/sieverl")
    assert called("/usr/bin/sieverl") == "sieverl"


@pytest.fixture
def function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Writes a function into a file, and gives its name as a verifier."""
    monkeypatch.chdir(tmp_path)

    def write(text: str) -> str:
        (tmp_path / "mine.py").write_text(text)
        return f"{tmp_path}/mine.py:f"

    return write


def test_S17_a_function_may_take_the_columns_by_name(function: Callable[[str], str]) -> None:
    verify = build_verifier(
        {"name": function("def f(response, **row):\n    return float(response == row['answer'])\n")}
    )
    assert [verify(text, {"answer": "4"}).reward for text in ("4", "5")] == [1.0, 0.0]


@pytest.mark.parametrize("count", [0, 2])
def test_S18_other_than_one_reward_for_one_completion_is_said(function: Callable[[str], str], count: int) -> None:
    verify = build_verifier({"name": function(f"def f(completions, **kwargs):\n    return [1.0] * {count}\n")})
    with pytest.raises(ValueError, match=f"the function returned {count} rewards for 1 completion"):
        verify("4", {"answer": "4"})


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["train", "r.toml", "--resum", "must"], "Did you mean --resume?"),
        (["train", "r.toml", "--laucher=ray"], "Did you mean --launcher?"),
        (["eval", "--modle", "base"], "Did you mean --model?"),
        (["train", "--lr", "1", "r.toml"], "Did you mean train.lr?"),
        (["doctor", "--train.lr", "1"], "unknown argument --train.lr"),
    ],
)
def test_an_unknown_option_names_the_nearest(work: Path, capsys: Capture, arguments: list[str], expected: str) -> None:
    assert expected in said(capsys, *arguments)


def test_keys_stand_anywhere_and_none_of_their_values_is_taken_for_a_recipe() -> None:
    _, options = parse(["train", "--train.lr", "1e-5", "a.toml", "b.toml", "--verify.boxes", "last", "--run-dir=x"])
    assert options.recipe == ["a.toml", "b.toml"]
    assert parse_keys(options.overrides) == {"train.lr": "1e-5", "verify.boxes": "last", "run_dir": "x"}


def test_the_keys_without_a_table_are_those_of_the_recipe() -> None:
    assert set(PLAIN_KEYS) == {name for name, _ in keys() if "." not in name}


def test_the_environment_and_several_files_reach_the_run(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Recipe] = []
    for command in ("train", "demo"):
        monkeypatch.setattr(
            f"sieverl.commands.{command}.train_recipe", lambda recipe, *rest, **more: seen.append(recipe)
        )
    monkeypatch.setenv("SIEVERL_TRAIN__LR", "0.5")
    monkeypatch.setenv("SIEVERL_SEED", "5")
    (work / "more.toml").write_text("seed = 4\nthreads = 1\n")
    main(["train", "r.toml", "more.toml", "--seed", "6"])
    main(["demo", "--steps", "3"])
    assert [(r.seed, r.train.lr) for r in seen] == [(6, 0.5), (5, 0.5)]
    assert seen[0].threads == 1
    assert seen[0].run_dir.endswith("r-more") or "run_dir" in (work / "r.toml").read_text()


@pytest.mark.parametrize(
    "arguments",
    [
        ["doctor", "--model"],
        ["eval", "--benchmark", "demo", "--model"],
        ["train", "r.toml", "--data.source"],
        ["train", "r.toml", "--model.path"],
        ["train", "r.toml", "--verify.name=~nobody-of-this-name/f.py:g", "--data.source"],
        ["plan", "r.toml", "--model-shape"],
        ["data", "prepare", "--output", "x.parquet"],
    ],
)
def test_fuzz_the_home_of_nobody(work: Path, capsys: Capture, arguments: list[str]) -> None:
    """`Path.expanduser` raises a RuntimeError where there is no such user."""
    assert main([*arguments, "~nobody-of-this-name/x"]) in (2, 3)
    assert capsys.readouterr().err.startswith("sieverl: ")


def test_fuzz_a_model_whose_name_no_hub_would_take(work: Path, capsys: Capture) -> None:
    assert main(["doctor", "--model", "Ê"]) == 3
    assert "there is no model Ê: give a directory, or a Hub id, org/name" in capsys.readouterr().err
