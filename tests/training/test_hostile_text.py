"""A whole run of text that steers terminals and that UTF-8 cannot hold: it goes on, keeps the text, and prints none."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from conftest import BASE
from runs import fake_run

from sieverl.run_dir.metrics import MetricsLog
from sieverl.training.loop import train

HOSTILE = "\x00\x1b]0;title\x07\x1b[2J\u202e\u2066\ud800\udfff\x9b31m\u2028\r\x08"


def steers(text: str) -> list[str]:
    """The characters of a text that are neither plain nor the end of a line."""
    return [c for c in text if c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")]


class Cursed:
    """A tokenizer whose decoded text is hostile, lone surrogates included."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tokenizer, name)

    def decode(self, tokens: Any, **options: Any) -> str:
        return HOSTILE + self.tokenizer.decode(tokens, **options) + HOSTILE


def test_a_run_keeps_responses_that_no_file_and_no_terminal_can_take_as_they_are(tmp_path: Path) -> None:
    reward = tmp_path / "reward.py"
    reward.write_text(
        "def reward(response, row):\n"
        "    if '7' in response:\n        raise KeyError(response)\n"
        "    return float('5' in response)\n"
    )
    overrides = {"verify__name": f"{reward}:reward", "alarms__engine_mismatch": 0, "steps": 2, "data__check_gold": 0}
    run = fake_run(tmp_path, [r"\boxed{5}", r"\boxed{6}", r"\boxed{7}"], **overrides)
    run.environment = replace(run.environment, tokenizer=Cursed(run.environment.tokenizer))
    with run:
        train(run)
    rows = MetricsLog(tmp_path / "f" / "metrics.jsonl").rows()
    assert [row["step"] for row in rows if "reward/accuracy" in row] == [1, 2]
    table = pq.read_table(tmp_path / "f" / "rollouts" / "step-000001.parquet").to_pylist()
    assert len(table) == 16
    kept = HOSTILE.replace("\ud800", "\ufffd").replace("\udfff", "\ufffd")
    assert all(row["response"].startswith(kept) and row["response"].endswith(kept) for row in table)
    statuses = {
        re.search(r"\d", row["response"].removeprefix(kept).removesuffix(kept))[0]: row["status"] for row in table
    }  # type: ignore[index]
    assert statuses == {"5": "correct", "6": "incorrect", "7": "verifier_error"}


def cursed_model(folder: Path) -> Path:
    """The shipped model, with a tokenizer that decodes its usual tokens to control characters and broken UTF-8."""
    model = folder / "model"
    shutil.copytree(BASE, model)
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    vocab = tokenizer["model"]["vocab"]
    # as its bytes are written: NUL, ESC, CR, BEL, a byte that begins nothing, and the mark of reversed direction
    for usual, odd in {"-": "Ā", "+": "ě", "=": "č", ",": "ć", "*": "ÿ", "\\": "âĢ®"}.items():
        other = vocab.pop(odd, None)
        vocab[odd] = vocab.pop(usual)
        if other is not None:
            vocab[usual] = other
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))
    return model


RECIPE = """
    steps = 2
    run_dir = "run"
    [model]
    path = "model"
    [data]
    source = "rows.jsonl"
    [rollout]
    prompts = 4
    samples = 4
    max_tokens = 24
    [verify]
    name = "reward.py:reward"
    [evaluate]
    source = "rows.jsonl"
    limit = 4
    samples = 2
    every = 1
    [checkpoint]
    every = 1
"""
REWARD = """
def reward(response, row):
    if row["id"] % 3 == 0:
        raise KeyError(response + row["prompt"])
    return float(len(response) % 2)
"""


@pytest.mark.slow
def test_the_commands_print_nothing_that_steers_whatever_model_and_data_say(tmp_path: Path) -> None:
    """`train`, `train` resumed, and `eval`, as processes, with such a model, such rows and errors that quote both."""
    cursed_model(tmp_path)
    rows = [{"id": i, "prompt": f"{HOSTILE}{i}+{i}=", "answer": f"{HOSTILE}{2 * i}"} for i in range(12)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "recipe.toml").write_text(RECIPE)
    (tmp_path / "reward.py").write_text(REWARD)
    evaluate = ["eval", "--model", "run", "--benchmark", "rows.jsonl", "-k", "2", "--verifier", "reward.py:reward"]
    evaluate += ["--max-tokens", "24", "--output", "results"]
    printed = ""
    for command in (["train", "recipe.toml"], ["train", "recipe.toml", "--steps", "3"], evaluate):
        done = subprocess.run(
            [sys.executable, "-m", "sieverl", *command],
            cwd=tmp_path, capture_output=True, timeout=280, env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        text = (done.stdout + done.stderr).decode()
        assert done.returncode == 0, (command, text)
        assert not steers(text), (command, text)
        printed += text
    assert r"\x1b" in printed, "the errors of the reward function quote the text"
    responses = [
        row["response"]
        for path in (tmp_path / "run" / "rollouts").glob("step-*.parquet")
        for row in pq.read_table(path, columns=["response"]).to_pylist()
    ]
    assert len(responses) == 3 * 16
    assert any(steers(response) for response in responses), "else the model said nothing hostile"
    assert [row["step"] for row in MetricsLog(tmp_path / "run" / "metrics.jsonl").rows()] == [0, 1, 2, 3]
    assert any((tmp_path / "results").rglob("*.json"))
