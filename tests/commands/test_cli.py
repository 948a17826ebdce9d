"""The command as its user meets it: bad input is one line with a way out, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from conftest import BASE, SHARED
from safetensors.torch import load_file

from sieverl import cli
from sieverl.algorithms import ALGORITHMS, get_algorithm
from sieverl.commands import demo, doctor
from sieverl.errors import UsageError
from sieverl.recipe import Recipe, keys, load, to_toml
from sieverl.recipe.reference import option
from sieverl.run_dir.metrics import MetricsLog

Capture = pytest.CaptureFixture[str]


def sieverl(capsys: Capture, *args: str) -> tuple[int, str, str]:
    """Exit code, and what was printed and said on standard error."""
    try:
        code = cli.main(args)
    except SystemExit as stop:  # of argparse
        code = int(stop.code or 0)
    out = capsys.readouterr()
    return code, out.out, out.err


def refused(capsys: Capture, work: Path, code: int, expected: str, *args: str) -> None:
    """The command ends with that code and one line that has `expected`, and leaves nothing behind."""
    before = sorted(os.listdir(work))
    got, _, err = sieverl(capsys, *args)
    assert got == code, err
    assert expected in err
    assert err.startswith("sieverl: ")
    assert len(err.strip().splitlines()) == 1
    assert sorted(os.listdir(work)) == before, "nothing half-written"


def test_train_on_a_file_of_the_users(work: Path, capsys: Capture) -> None:
    code, out, _ = sieverl(capsys, "train", "r.toml", "--run-dir", "out", "--train.lr", "1e-5", "--rollout.samples=3")
    assert code == 0
    assert len(MetricsLog(work / "out" / "metrics.jsonl").rows()) == 2
    assert (work / "out" / "curve.png").stat().st_size > 5000
    assert load("out/recipe.toml").train.lr == 1e-5
    assert "run directory" in out
    assert "report:        out/report.html" in out
    assert "<script" not in (work / "out" / "report.html").read_text()
    code, _, err = sieverl(capsys, "train", "r.toml", "--run-dir", "out", "--train.lr", "1e-5", "--rollout.samples=3")
    assert code == 0
    assert "nothing is left to do" in err


def test_usage_errors_name_the_way_out(work: Path, capsys: Capture) -> None:
    refused(capsys, work, 2, "there is no recipe nothing.toml", "train", "nothing.toml")
    refused(capsys, work, 2, "Did you mean train.lr?", "train", "r.toml", "--train.lrr", "1")
    refused(capsys, work, 2, "Did you mean reinforce_rej?", "train", "r.toml", "--algorithm", "reinforce_rek")
    refused(capsys, work, 2, "has no value", "train", "r.toml", "--train.lr")
    refused(capsys, work, 2, "there is no recipe 1e-5", "train", "r.toml", "1e-5")
    refused(capsys, work, 2, "greater than 0", "train", "r.toml", "--train.lr", "-1")
    refused(capsys, work, 2, "groups of one", "train", "r.toml", "--rollout.samples", "1")
    refused(capsys, work, 2, "at most 2", "train", "r.toml", "--train.minibatches", "3")
    refused(capsys, work, 2, "is not a file", "train", "r.toml", "--algorithm", "mine.py:best")
    refused(capsys, work, 4, "--resume must", "train", "r.toml", "--resume", "must")
    (work / "bad.toml").write_text("steps = \n")
    refused(capsys, work, 2, "not valid TOML", "train", "bad.toml")
    assert sieverl(capsys, "eat")[0] == 2
    assert sieverl(capsys, "algorithms", "--what")[0] == 2


# options -> what the one line says
MISTAKES = {
    "train.lr = inf": "train.lr = inf is not a finite number",
    "train.eps = nan": "train.eps",
    "train.eps = 0.0": "greater than 0",
    "train.betas = [0.9, 1.0]": "less than 1",
    "train.betas = [-0.1, 0.9]": "greater than or equal to 0",
    "train.betas = [inf, 0.9]": "train.betas",
    "train.weight_decay = inf": "train.weight_decay = inf",
    "rollout.temperature = inf": "rollout.temperature = inf",
    "model.lora.alpha = inf": "model.lora.alpha = inf",
    "model.lora.alpha = 0": "greater than 0",
    "model.lora.targets = ''": "model.lora.targets",
    "verify.timeout_s = inf": "verify.timeout_s = inf",
    "verify.tolerance = nan": "verify.tolerance = nan",
    "data.options.ratio = nan": "data.options.ratio = nan",
    "axes.clip_low = nan": "axes.clip_low = nan",
    "evaluate.every = 5": "set evaluate.source",
    "evaluate.temperature = 0": "evaluate.samples = 4",
    "axes.kl = k2": "axes.kl_coefficient",
    "axes.penalty_denominator = kept": "axes.kl_coefficient or axes.entropy_coefficient",
    "data.limit = 0": "greater than 0",
    "data.limit = -1": "greater than 0",
    "rollout.stop = ['']": "rollout.stop",
    "data.suffix = \udcff": "data.suffix = '\\udcff' is no text in UTF-8",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_in_the_recipe_that_cannot_work_are_refused(work: Path, capsys: Capture, mistake: str) -> None:
    key, value = mistake.split(" = ")
    refused(capsys, work, 2, MISTAKES[mistake], "train", "r.toml", f"--{key}={value}")


def test_S8_a_start_without_a_step_does_not_block_another_recipe(work: Path, capsys: Capture) -> None:
    (work / "run" / "rollouts").mkdir(parents=True)
    (work / "run" / "recipe.toml").write_text(to_toml(load("r.toml", {"run_dir": "run", "train.lr": 0.5})))
    (work / "run" / "metrics.jsonl").write_text('{"step": 0, "eval/heldout/avg@4": 0.5}\n')
    (work / "run" / "rollouts" / "step-000001.parquet").write_text("of the other recipe")
    code, _, err = sieverl(capsys, "train", "r.toml", "--run-dir", "run")
    assert code == 0, err
    assert load("run/recipe.toml").train.lr == 1e-6
    assert [row["step"] for row in MetricsLog(work / "run" / "metrics.jsonl").rows()] == [0, 1]
    refused(capsys, work, 2, "holds a run with train.lr = 1e-06", "train", "r.toml", "--run-dir", "run", "--train.lr=1")
    refused(
        capsys, work, 2, "verify.boxes = None, not 'first'", "train", "r.toml", "--run-dir=run", "--verify.boxes=first"
    )
    shutil.rmtree(work / "run" / "checkpoints")
    refused(capsys, work, 2, "holds a run with train.lr = 1e-06", "train", "r.toml", "--run-dir", "run", "--train.lr=1")


def test_S8_a_reward_that_fails_at_the_start_can_be_repaired(work: Path, capsys: Capture) -> None:
    function = "def graded(response, row):\n    return 1.0\n"
    (work / "rewards.py").write_text(function)
    train = ("train", "r.toml", "--run-dir", "run", "--data.check_gold", "0", "--verify.name")
    refused(capsys, work, 2, "rewads.py", *train, "rewads.py:graded")
    code, _, err = sieverl(capsys, *train, "rewards.py:graded")
    assert code == 0, err


def test_S15_mistakes_are_told_before_recipes_are_compared(work: Path, capsys: Capture) -> None:
    train = ("train", "r.toml", "--run-dir", "run")
    assert sieverl(capsys, *train)[0] == 0
    refused(capsys, work, 2, "Did you mean boxes?", *train, "--verify.boxs", "last")
    refused(capsys, work, 2, "Did you mean math?", *train, "--verify.name", "mth")
    refused(capsys, work, 2, "Did you mean sdpa?", *train, "--model.attention", "sdpaa")
    refused(capsys, work, 2, "Did you mean grpo?", *train, "--algorithm", "grpoo")
    refused(capsys, work, 3, "dat.jsonl", *train, "--data.source", "dat.jsonl")
    refused(capsys, work, 2, "allowed: auto, cpu, cuda", *train, "--model.device", "cude")
    refused(capsys, work, 2, "holds a run with verify.boxes = None", *train, "--verify.boxes", "last")


def test_data_errors_name_file_and_line(work: Path, capsys: Capture) -> None:
    refused(capsys, work, 3, "missing.jsonl", "train", "r.toml", "--data.source", "missing.jsonl")
    (work / "broken.jsonl").write_text('{"prompt": "1+1", "answer": "2"}\n{"prompt": \n')
    refused(capsys, work, 3, "line 2", "train", "r.toml", "--data.source", "broken.jsonl")
    (work / "empty.jsonl").write_text("")
    refused(capsys, work, 3, "empty.jsonl", "train", "r.toml", "--data.source", "empty.jsonl")
    (work / "null.jsonl").write_text('{"prompt": "1+1", "answer": null}\n')
    refused(capsys, work, 3, "answer", "train", "r.toml", "--data.source", "null.jsonl")
    (work / "odd.jsonl").write_text('{"prompt": "say hello", "answer": "hello"}\n')
    options = ["--data.source", "odd.jsonl", "--verify.name", "number"]
    refused(capsys, work, 3, "do not verify", "train", "r.toml", *options)
    refused(capsys, work, 3, "max_prompt_tokens", "train", "r.toml", "--data.max_prompt_tokens", "2")


def test_model_errors(work: Path, capsys: Capture) -> None:
    refused(capsys, work, 3, "config.json", "train", "r.toml", "--model.path", "./nowhere")
    shutil.copytree(BASE, work / "plain")
    config = json.loads((work / "plain" / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (work / "plain" / "tokenizer_config.json").write_text(json.dumps(config))
    (work / "plain" / "chat_template.jinja").unlink(missing_ok=True)
    refused(capsys, work, 3, "chat template", "train", "r.toml", "--model.path", "./plain")
    code, _, err = sieverl(capsys, "train", "r.toml", "--model.path", "./plain", "--data.template", "plain")
    assert code == 0, err


def test_a_run_directory_that_cannot_be_written(work: Path, capsys: Capture) -> None:
    (work / "file").write_text("x")
    refused(capsys, work, 2, "cannot write the run directory", "train", "r.toml", "--run-dir", "file/run")


def test_algorithm_of_the_users_own(work: Path, capsys: Capture) -> None:
    (work / "mine.py").write_text(
        "from sieverl import Algorithm\nfrom sieverl.algorithms.credit import correct, one\n"
        "best = Algorithm(select=correct, advantage=one)\n"
    )
    code, out, _ = sieverl(capsys, "algorithms", "mine.py:best")
    assert code == 0
    assert "correct" in out
    code, _, _ = sieverl(capsys, "train", "r.toml", "--algorithm", "mine.py:best", "--run-dir", "mine")
    assert code == 0
    (work / "broken.py").write_text("1 +\n")
    refused(capsys, work, 2, "cannot be imported", "train", "r.toml", "--algorithm", "broken.py:best")
    refused(capsys, work, 2, "no sieverl.Algorithm named 'worst'", "train", "r.toml", "--algorithm", "mine.py:worst")


def test_algorithms_lists_each_and_explains_one(capsys: Capture) -> None:
    code, out, _ = sieverl(capsys, "algorithms")
    assert code == 0
    for name in ALGORITHMS:
        assert f" {name} " in out
        code, one, _ = sieverl(capsys, "algorithms", name)
        assert code == 0
        assert "formula: loss = " in one


def test_doctor(capsys: Capture) -> None:
    code, out, _ = sieverl(capsys, "doctor")
    assert code == 0
    assert "torch" in out
    assert "to do" in out
    assert "missing" not in out
    assert "shipped model" in out


def test_doctor_says_what_is_missing_and_how_to_add_it(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "REQUIRED", ("torch", "no-such-package"))
    code, out, _ = sieverl(capsys, "doctor")
    assert code == 3
    line = next(line for line in out.splitlines() if "no-such-package" in line)
    assert [cell.strip() for cell in line.strip("│").split("│")] == [
        "no-such-package",
        "missing",
        "pip install sieverl",
    ]


def test_help_of_each_command(capsys: Capture) -> None:
    for command in ("demo", "train", "verify", "data", "report", "algorithms", "doctor"):
        code, out, _ = sieverl(capsys, command, "--help")
        assert code == 0
        assert "usage: sieverl " + command in out
    _, out, _ = sieverl(capsys, "train", "--help")
    assert all(f"{option(name)} " in out for name, _ in keys())


def test_demo_takes_a_new_directory_or_the_unfinished_one(work: Path, capsys: Capture) -> None:
    def directory(**changes: object) -> str:
        return demo.recipe({"steps": 1, **changes}).run_dir

    assert directory() == "runs/demo-1"
    options = ["--steps", "1", "--rollout.prompts", "2", "--evaluate.limit", "2", "--checkpoint.every", "1"]
    options += ["--data.options.size", "40", "--evaluate.options.size", "4"]
    code, out, err = sieverl(capsys, "demo", *options)
    assert code == 0, err
    assert "held-out avg@" in out
    assert "next:" in out
    assert directory() == "runs/demo-2"


def test_gsm8k_with_the_shipped_model_runs_says_so_and_does_no_harm(work: Path, capsys: Capture) -> None:
    if not SHARED.is_dir():
        pytest.skip("the GSM8K file is not part of the project")
    options = ["--data.source", f"gsm8k@{SHARED / 'gsm8k_train.jsonl'}", "--steps", "2", "--rollout.prompts", "4"]
    code, _, err = sieverl(capsys, "train", "r.toml", *options, "--run-dir", "g", "--rollout.max_tokens", "48")
    assert code == 0, err
    assert "nothing kept: 100% of prompts all wrong, 0% all correct; no update was made" in " ".join(err.split())
    before, after = (load_file(d / "model.safetensors") for d in (BASE, work / "g" / "checkpoints" / "latest"))
    assert all((before[name] == after[name]).all() for name in before)


def test_a_module_that_has_moved_is_named_with_its_new_place(work: Path) -> None:
    Path("mine.py").write_text("from sieverl.credit import correct")
    with pytest.raises(UsageError, match=r"No module named 'sieverl.credit'; it is now sieverl\.algorithms\.credit"):
        get_algorithm("mine.py:hard")


def test_fuzz_words_that_steer_a_terminal_are_shown_as_text(work: Path, capsys: Capture) -> None:
    code, _, err = sieverl(capsys, "algorithms", "raft", "\x1b]0;title\x07")
    assert code == 2
    assert err.endswith("unknown argument \\x1b]0;title\\x07\n")


@pytest.mark.parametrize("arguments", [["train"], ["plan"], ["doctor", "--model"], ["eval", "--compare"]])
def test_fuzz_a_name_that_is_too_long_for_the_system(work: Path, capsys: Capture, arguments: list[str]) -> None:
    code, _, err = sieverl(capsys, *arguments, "a" * 5000, *(["x"] if "--compare" in arguments else []))
    assert code in (2, 3)
    assert err.startswith("sieverl: ")
    assert "File name too long" in err


def test_fuzz_the_run_directory_of_a_recipe_is_not_overruled(
    work: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`sieverl train run/recipe.toml` began a new run in runs/recipe."""
    seen: list[str] = []

    def train_recipe(recipe: Recipe, *rest: object) -> int:
        seen.append(recipe.run_dir)
        return 0

    monkeypatch.setattr("sieverl.commands.train.train_recipe", train_recipe)
    Path("named.toml").write_text("steps = 1\n")
    Path("own.toml").write_text('run_dir = "mine"\n')
    for arguments in (["named.toml"], ["own.toml"], ["own.toml", "--run-dir", "other"]):
        assert sieverl(capsys, "train", *arguments)[0] == 0
    assert seen == ["runs/named", "mine", "other"]
