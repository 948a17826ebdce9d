"""`sieverl init`: a recipe that loads, nothing overwritten, the next command, and faults in a line."""

from __future__ import annotations

import io
import json
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from conftest import ROOT

from sieverl.cli import main
from sieverl.recipe import load

SCRIPT = ROOT / "tests" / "fixtures" / "elsewhere" / "columns.py"


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rows = [{"q": f"What is {n}+1?", "a": str(n + 1)} for n in range(4)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_a_recipe_for_a_model_and_data(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--model", "org/m", "--data", "rows.jsonl", "--columns", "prompt=q,answer=a", "--algorithm", "grpo"]
    assert main(["init", *given]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == "next: sieverl train recipe.toml"
    assert "What is 0+1?" in out
    recipe = load("recipe.toml")
    assert (recipe.algorithm, recipe.model.path, recipe.data.source) == ("grpo", "org/m", "rows.jsonl")
    assert (recipe.data.columns, recipe.verify.name) == ({"prompt": "q", "answer": "a"}, "math")
    lines = Path("recipe.toml").read_text().splitlines()
    assert not [line for above, line in pairwise(lines) if " = " in line and "#" not in line + above], (
        "a sentence for each value"
    )


@pytest.mark.parametrize(("model", "lr", "tokens", "suffix"), [("", 2e-4, 64, None), ("org/m", 1e-6, 512, "boxed")])
def test_the_shipped_model_gets_what_it_can_learn_with(model: str, lr: float, tokens: int, suffix: str | None) -> None:
    assert main(["init", "--model", model, "--data", "rows.jsonl", "--columns", "prompt=q,answer=a"]) == 0
    recipe = load("recipe.toml")
    assert (recipe.train.lr, recipe.rollout.max_tokens, recipe.data.suffix) == (lr, tokens, suffix)


def test_nothing_is_replaced_without_force(capsys: pytest.CaptureFixture[str]) -> None:
    Path("recipe_rewards.py").write_text("mine")
    assert main(["init", "--from", str(SCRIPT)]) == 2
    assert "recipe_rewards.py is there already" in capsys.readouterr().err
    assert not Path("recipe.toml").exists()
    assert Path("recipe_rewards.py").read_text() == "mine"
    assert main(["init", "--from", str(SCRIPT), "--force"]) == 0
    assert "def brief" in Path("recipe_rewards.py").read_text()


def test_from_a_script_lists_and_says_what_is_next(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "--from", str(SCRIPT), "--processes", "2", "--output", "mine.toml"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("not taken over (1):\n- num_train_epochs = 1")
    assert out.splitlines()[-1] == "next: torchrun --nproc-per-node 2 -m sieverl train mine.toml"
    assert "# - num_train_epochs = 1" in Path("mine.toml").read_text()


def test_questions_are_asked_in_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    answers = io.StringIO("\nreasoning_gym:chain_sum\n\n\n")
    monkeypatch.setattr(answers, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", answers)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert main(["init"]) == 0
    assert "algorithm [reinforce_rej]" in capsys.readouterr().err
    recipe = load("recipe.toml")
    assert (recipe.data.source, recipe.verify.name) == ("reasoning_gym:chain_sum", "reasoning_gym")


@pytest.mark.parametrize(
    ("given", "message", "code"),
    [
        ([], "needs --data", 2),
        (["--data", "rows.jsonl"], "no column that could be the prompt", 3),
        (["--data", "row.jsonl"], "row.jsonl", 3),
        (["--data", "reasoning_gym:chain_sum", "--algorithm", "grp"], "Did you mean grpo?", 2),
        (["--data", "reasoning_gym:chain_sum", "--verifier", "maths"], "Did you mean math?", 2),
        (["--data", "reasoning_gym:chain_sum", "--model", "./nowhere"], "no directory and no Hub id", 2),
        (["--from", str(SCRIPT), "--model", "m"], "--model and --from do not go together", 2),
        (["--from", "none.py"], "there is no file none.py", 2),
        (["--from", str(SCRIPT), "--output", "no/where.toml"], "directory that exists", 2),
        (["--from", str(SCRIPT), "--processes", "0"], "below 1", 2),
    ],
)
def test_faults(given: list[str], message: str, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", *given]) == code
    err = capsys.readouterr().err
    assert message in err
    assert not Path("recipe.toml").exists()
