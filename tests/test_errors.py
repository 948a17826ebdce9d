"""Errors for people: each real mistake is one line that says what came and what to do, with its exit code."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from toys import unchecked

from sieverl.algorithms import Algorithm, DynamicSampling, get_algorithm
from sieverl.algorithms import objective as obj
from sieverl.algorithms.axes import with_axes
from sieverl.algorithms.objective import Penalty
from sieverl.data import Cursor, load_prompts
from sieverl.errors import (
    Alarm,
    CheckpointError,
    DataError,
    EngineError,
    ExitCode,
    SieveRLError,
    StorageError,
    UsageError,
    first_line,
    nearest,
)
from sieverl.files import check_writable
from sieverl.model.files import check_attention
from sieverl.model.find import find_model
from sieverl.model.load import choose_device
from sieverl.options import key_values
from sieverl.recipe import build, load
from sieverl.run_dir import manifest
from sieverl.verify import build as build_verifier
from sieverl.verify import stop_if_all_failed


def rows(folder: Path, *lines: str) -> str:
    (folder / "rows.jsonl").write_text("".join(line + "\n" for line in lines))
    return str(folder / "rows.jsonl")


def text(folder: Path, content: str) -> Path:
    (folder / "file").write_text(content)
    return folder / "file"


def damaged(folder: Path) -> Path:
    (folder / "step-1").mkdir()
    (folder / "step-1" / "manifest.json").write_text(json.dumps({"weights": "0" * 64, "training.json": "0" * 64}))
    return folder


GOOD = '{"prompt": "1+1", "answer": "2"}'

# mistake -> what is done in an empty folder, the error's class, what came, what to do about it
MISTAKES: dict[str, tuple[Callable[[Path], object], type[SieveRLError], str, str]] = {
    # algorithms
    "algorithm": (lambda _: get_algorithm("gropo"), UsageError, "'gropo'", "Did you mean grpo?"),
    "algorithm file": (lambda _: get_algorithm("mine.py:best"), UsageError, "mine.py", "is my_file.py:my_algorithm"),
    "flat rewards": (lambda _: Algorithm().credit([1, 0]), UsageError, "shape (2,)", "pass [prompts, samples]"),
    "prompts": (lambda _: Algorithm().credit([1, 0], prompt=[0]), UsageError, "1 prompts", "one prompt a reward"),
    "nan": (lambda _: Algorithm().credit([[1, float("nan")]]), UsageError, "reward 1 is nan", "a finite number"),
    "lone": (lambda _: get_algorithm("grpo").credit([[1]]), UsageError, "prompt 0 has one", "at least 2 (rollout.sam"),
    "greedy": (lambda _: get_algorithm("remax").credit([[1, 0]]), UsageError, "greedy response", "pass greedy="),
    "greedy rows": (
        lambda _: get_algorithm("remax").credit([[1, 0]], greedy=[1, 0, 0]),
        UsageError,
        "3 greedy rewards for 1 prompts",
        "pass one a prompt",
    ),
    "whiten": (lambda _: Algorithm(whiten=True), UsageError, "whiten", "give a token_advantage"),
    "rounds": (lambda _: DynamicSampling(max_rounds=0), UsageError, "max_rounds is 0", "at least 1"),
    "k1 in the loss": (lambda _: Penalty(obj.k1, 0.1), UsageError, "k1 penalty", "use k2 or k3"),
    "axis": (lambda _: with_axes(Algorithm(), {"shape": "sign"}), UsageError, "'sign'", "one of signed, zero_one"),
    # the recipe and the command line
    "recipe": (lambda folder: load(folder / "r.toml"), UsageError, "r.toml", "takes a TOML file"),
    "key": (lambda _: build({"train": {"lrr": 1}}), UsageError, "'train.lrr'", "Did you mean train.lr?"),
    "renamed key": (lambda _: build({"axes": {"over": "kept"}}), UsageError, "axes.over", "called axes.denominator"),
    "value": (lambda _: build({"train": {"lr": -1}}), UsageError, "(got -1)", "greater than 0"),
    "sizes": (
        lambda _: build({"train": {"minibatches": 5}, "rollout": {"prompts": 4}}),
        UsageError,
        "train.minibatches = 5",
        "at most 4",
    ),
    "table": (lambda _: build({"steps": 1}, {"steps.more": 1}), UsageError, "--steps.more", "not a table"),
    "option": (lambda _: key_values(["prompt"], "--columns"), UsageError, "--columns has 'prompt'", "KEY=VALUE"),
    "unwritable": (
        lambda folder: check_writable(text(folder, "") / "run", "the run directory", "--run-dir"),
        UsageError,
        "is a file",
        "choose another --run-dir",
    ),
    # the verifier
    "verifier": (lambda _: build_verifier({"name": "mth"}), UsageError, "'mth'", "Did you mean math?"),
    "verifier's option": (
        lambda _: build_verifier({"name": "math", "boxs": "last"}),
        UsageError,
        "verify.boxs",
        "Did you mean boxes?",
    ),
    # models
    "attention": (lambda _: check_attention("sdpaa"), UsageError, "'sdpaa'", "Did you mean sdpa?"),
    "device": (lambda _: choose_device("cude"), UsageError, "cude", "allowed: auto, cpu, cuda"),
    "model": (lambda folder: find_model(f"{folder}/no"), DataError, "/no", "give a directory, a run, a Hub id"),
    "empty model": (lambda folder: find_model(str(folder)), DataError, "holds no model", "config.json"),
    # data
    "data": (lambda folder: load_prompts(f"{folder}/no.jsonl"), DataError, "no such file", "no.jsonl"),
    "row": (lambda folder: load_prompts(rows(folder, GOOD, "{")), DataError, "line 2", "JSON"),
    "no rows": (lambda folder: load_prompts(rows(folder)), DataError, "rows.jsonl", "a prompt and an answer"),
    "columns": (lambda folder: load_prompts(rows(folder, '{"a": "1"}')), DataError, "there is: a", "prompt=COLUMN"),
    "cursor": (lambda _: Cursor(0, 9).take(1, 5, 0), DataError, "prompt 9", "start a new run directory"),
    # checkpoints and alarms
    "no checkpoint": (lambda folder: manifest.newest(folder, must=True), CheckpointError, "no checkpoint", "--resume"),
    "damage": (lambda folder: manifest.newest(damaged(folder)), CheckpointError, "weights is missing", "restore one"),
    "verdicts": (
        lambda _: stop_if_all_failed(["verifier_error"] * 2, {"KeyError: 'x'": 2}),
        Alarm,
        "KeyError: 'x', 2 times",
        "repair",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_every_error_is_for_people(tmp_path: Path, mistake: str) -> None:
    make, kind, came, way_out = MISTAKES[mistake]
    with unchecked(), pytest.raises(SieveRLError) as caught:
        make(tmp_path)
    assert type(caught.value) is kind
    message = str(caught.value)
    assert came in message, message
    assert way_out in message, message
    assert "\n" not in message


def test_a_k1_penalty_of_a_recipe_is_an_error_for_people_and_not_a_traceback() -> None:
    with pytest.raises(UsageError, match="use k2 or k3 in the loss"):
        with_axes(get_algorithm("grpo"), {"kl": "k1", "kl_coefficient": 0.1})


ERRORS = (UsageError, DataError, CheckpointError, Alarm, EngineError, StorageError)


def test_every_class_has_its_exit_code_and_every_code_its_meaning() -> None:
    codes = {kind: int(kind.exit_code) for kind in ERRORS}
    assert list(codes.values()) == [2, 3, 4, 5, 6, 74]
    assert issubclass(SieveRLError, ValueError), "who catches a ValueError catches ours"
    assert [int(code) for code in ExitCode] == [0, 2, 3, 4, 5, 6, 74, 75, 130]
    assert len({code.meaning for code in ExitCode}) == len(ExitCode)


def test_the_nearest_name_and_the_first_line() -> None:
    assert nearest("train.lrr", ["train.lr", "steps"]) == " Did you mean train.lr?"
    assert nearest("zzz", ["train.lr", "steps"]) == ""
    assert first_line(ValueError("one\ntwo")) == "one"
    assert first_line(ValueError("x" * 300)) == "x" * 200
    assert first_line(KeyError()) == "KeyError"
