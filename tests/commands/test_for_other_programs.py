"""What commands print for other programs: a dry run, the schema, completion, JSON."""

from __future__ import annotations

import json
import shutil
import subprocess
import tomllib
from pathlib import Path

import jsonschema
import pytest
from conftest import ROOT

from sieverl.assets import RECIPE
from sieverl.cli import main
from sieverl.commands.parser import build_parser
from sieverl.recipe import build, load
from sieverl.recipe.reference import schema

Capture = pytest.CaptureFixture[str]


def printed(capsys: Capture, *arguments: str) -> str:
    """What a command that succeeds prints on standard output."""
    assert main(arguments) == 0
    return capsys.readouterr().out


def test_a_dry_run_is_the_recipe_with_its_first_prompt_and_writes_nothing(work: Path, capsys: Capture) -> None:
    before = sorted(path for path in work.rglob("*"))
    out = printed(capsys, "train", "r.toml", "--dry-run", "--run-dir", "new", "--train.lr=0.5")
    (resolved := work.parent / "resolved.toml").write_text(out)
    assert load(resolved) == load("r.toml", {"run_dir": "new", "train.lr": 0.5})
    assert "# a new run in new, to step" in out
    assert "#   <|user|>" in out
    assert "257:'<|user|>'" in out
    assert "GB  parameters" in out
    assert out.endswith("# all checks passed; weights were not loaded\n")
    assert sorted(path for path in work.rglob("*")) == before


def test_a_dry_run_of_a_run_that_was_begun_says_where_it_goes_on(work: Path, capsys: Capture) -> None:
    run = ("train", "r.toml", "--run-dir", "run", "--checkpoint.every", "1", "--display", "none")
    printed(capsys, *run, "--steps", "1")
    out = printed(capsys, *run, "--steps", "2", "--dry-run")
    assert "# resumes run at step 1, to step 2" in out
    assert main([*run, "--train.lr", "0.5", "--dry-run"]) == 2
    assert "holds a run with train.lr" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--data.source", "none.jsonl"], 3, "none.jsonl"),
        (["--algorithm", "grpoo"], 2, "Did you mean grpo?"),
        (["--data.max_prompt_tokens", "2"], 3, "max_prompt_tokens"),
        (["--verify.name", "choice"], 3, "do not verify"),
        (["--resume", "must"], 4, "--resume must"),
        (["--model.path", "./nowhere"], 3, "config.json"),
    ],
)
def test_a_dry_run_finds_what_a_run_would_stop_at(
    work: Path, capsys: Capture, arguments: list[str], code: int, message: str
) -> None:
    assert main(["train", "r.toml", "--dry-run", *arguments]) == code
    assert message in capsys.readouterr().err


def test_text_of_a_prompt_stays_a_comment(work: Path, capsys: Capture) -> None:
    (work / "odd.jsonl").write_text(json.dumps({"prompt": "1\n2\r\x1b[31m\u2028x = 1", "answer": "3"}) + "\n")
    options = ["--data.source", "odd.jsonl", "--data.template", "plain", "--data.check_gold", "0"]
    out = printed(capsys, "train", "r.toml", "--dry-run", *options)
    assert "\x1b" not in out
    assert tomllib.loads(out)["data"]["source"] == "odd.jsonl"
    assert "x" not in {line.partition(" ")[0] for line in out.splitlines()}


def test_the_schema_takes_what_the_recipe_takes(capsys: Capture) -> None:
    shown = json.loads(printed(capsys, "config", "schema"))
    assert shown == schema()
    jsonschema.Draft202012Validator.check_schema(shown)
    validator = jsonschema.Draft202012Validator(shown)
    for file in (RECIPE, *(ROOT / "recipes").rglob("*.toml")):
        assert not list(validator.iter_errors(tomllib.loads(file.read_text())))
    for tables in ({"alarms": {"heldout": "stop", "kl_ref": {"threshold": 2.0}}}, {"verify": {"boxes": "last"}}):
        build(tables)
        assert validator.is_valid(tables)
    for text in ("[trian]", "train.lr = 'a'", "alarms.heldout = 'never'", "rollout.samples = 0"):
        assert not validator.is_valid(tomllib.loads(text))


BASH = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _shtab_sieverl; printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["tr"], {"train"}),
        (["train", "r.toml", "--train.l"], {"--train.lr"}),
        (["train", "r.toml", "--dtype", "b"], {"bfloat16"}),
        (["train", "r.toml", "--distributed.strategy", ""], {"replicated", "fsdp"}),
        (["eval", "--be"], {"--benchmark"}),
        (["train", "nam"], {"named.toml"}),
        (["report", "nam"], {"named.toml"}),
    ],
)
def test_bash_completes_commands_keys_values_and_files(
    work: Path, capsys: Capture, words: list[str], expected: set[str]
) -> None:
    (work / "named.toml").touch()
    (work / "script").write_text(printed(capsys, "completion", "bash"))
    command = ["bash", "-c", BASH, "bash", "./script", "sieverl", *words]
    found = subprocess.run(command, cwd=work, capture_output=True, text=True, check=True)
    assert set(found.stdout.split()) == expected
    assert not found.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_has_a_script_that_it_can_read(work: Path, capsys: Capture, shell: str) -> None:
    script = printed(capsys, "completion", shell)
    assert "rollout.samples" in script
    if not shutil.which(shell):
        pytest.skip(f"there is no {shell} here")
    subprocess.run([shell, "-n"], input=script, text=True, check=True)


def test_every_option_of_every_command_has_a_sentence() -> None:
    for name, command in build_parser().commands.items():
        for action in command.actions:
            assert action.help, f"{name} {action.option_strings or action.dest}"


def test_json_of_every_command_that_prints_data(work: Path, capsys: Capture) -> None:
    assert json.loads(printed(capsys, "algorithms", "--json"))["grpo"]["axes"]["advantage"] == "group_zscore"
    assert list(json.loads(printed(capsys, "algorithms", "raft", "--json"))) == ["raft"]
    assert json.loads(printed(capsys, "doctor", "--json"))["packages"]["torch"]
    assert json.loads(printed(capsys, "doctor", "--model", "base", "--json"))["learner"] == "packed tokens"
    assert json.loads(printed(capsys, "data", "list", "--json"))["gsm8k"]["hub"] == "openai/gsm8k"
    prepared = json.loads(printed(capsys, "data", "prepare", "data.jsonl", "--output", "p.parquet", "--json"))
    assert (prepared["rows"], prepared["kept"], prepared["output"]) == (16, 16, "p.parquet")
    (work / "in.jsonl").write_text('{"gold": "4", "response": "\\\\boxed{4}"}\n{"gold": "4", "response": "5"}\n')
    scored = json.loads(printed(capsys, "verify", "--input", "in.jsonl", "--output", "out.jsonl", "--json"))
    assert (scored["responses"], scored["reward_mean"], scored["statuses"]["correct"]) == (2, 0.5, 1)


def test_json_of_an_evaluation_and_a_comparison(work: Path, capsys: Capture) -> None:
    common = ("eval", "--model", "base", "--benchmark", "data.jsonl", "--verifier", "number", "--max-tokens", "4")
    results = [
        json.loads(printed(capsys, *common, "-k", "2", "--seed", seed, "--output", f"{seed}.json", "--json"))
        for seed in ("1", "2")
    ]
    saved = json.loads((work / "1.json").read_text())
    assert results[0][0]["scores"] == saved["scores"]
    assert results[0][0]["rows"] == "1.json"
    compared = json.loads(printed(capsys, "eval", "--compare", "1.json", "2.json", "--json"))
    assert compared["prompts"] == 16
    averages = [result[0]["scores"]["avg@2"]["value"] for result in results]
    assert compared["scores"]["avg"]["difference"] == pytest.approx(averages[1] - averages[0])


def test_an_evaluation_with_a_graded_reward_shows_its_mean(work: Path, capsys: Capture) -> None:
    (work / "mine.py").write_text("def half(response, row):\n    return 0.5\n")
    common = ("eval", "--model", "base", "--benchmark", "data.jsonl", "--max-tokens", "64", "--limit", "4", "-k", "1")
    out = " ".join(printed(capsys, *common, "--verifier", "mine.py:half", "--output", "half.json").split())
    assert "mean reward │ 0.5000" in out
    assert json.loads((work / "half.json").read_text())["shares"]["reward_mean"] == 0.5
    assert "mean reward" not in printed(capsys, *common, "--verifier", "number", "--output", "number.json")


def test_rows_to_train_on_can_be_verified_as_they_are(work: Path, capsys: Capture) -> None:
    row = {"answer": "4", "response": "\\boxed{4}"}
    (work / "in.jsonl").write_text(json.dumps(row) + "\n")
    command = ("verify", "--input", "in.jsonl", "--output", "out.jsonl", "--json")
    assert json.loads(printed(capsys, *command))["reward_mean"] == 1.0
    (work / "in.jsonl").write_text(json.dumps(row | {"gold": "5"}) + "\n")
    assert json.loads(printed(capsys, *command))["reward_mean"] == 0.0
