"""A whole run of text that steers terminals and that UTF-8 cannot hold: it goes on and keeps the text."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from runs import fake_run

from sieverl.run_dir.metrics import MetricsLog
from sieverl.training.loop import train

HOSTILE = "\x00\x1b]0;title\x07\x1b[2J\u202e\u2066\ud800\udfff\x9b31m\u2028\r\x08"


def cursed(tokenizer: Any) -> Any:
    """The tokenizer, whose decoded text is hostile from now on, lone surrogates included."""
    decode = tokenizer.decode
    tokenizer.decode = lambda tokens, **options: HOSTILE + decode(tokens, **options) + HOSTILE
    return tokenizer


def test_a_run_keeps_responses_that_no_file_and_no_terminal_can_take_as_they_are(tmp_path: Path) -> None:
    reward = tmp_path / "reward.py"
    reward.write_text(
        "def reward(response, row):\n"
        "    if '7' in response:\n        raise KeyError(response)\n"
        "    return float('5' in response)\n"
    )
    overrides = {"verify__name": f"{reward}:reward", "alarms__engine_mismatch": 0, "steps": 2, "data__check_gold": 0}
    run = fake_run(tmp_path, [r"\boxed{5}", r"\boxed{6}", r"\boxed{7}"], **overrides)
    run.environment = replace(run.environment, tokenizer=cursed(run.environment.tokenizer))
    with run:
        train(run)
    rows = MetricsLog(tmp_path / "f" / "metrics.jsonl").rows()
    assert [row["step"] for row in rows if "reward/accuracy" in row] == [1, 2]
    table = pq.read_table(tmp_path / "f" / "rollouts" / "step-000001.parquet").to_pylist()
    assert len(table) == 16
    kept = HOSTILE.replace("\ud800", "\ufffd").replace("\udfff", "\ufffd")
    assert all(row["response"].startswith(kept) and row["response"].endswith(kept) for row in table)
    answers = [re.findall(r"boxed{(\d)}", row["response"]) for row in table]
    statuses = {answer: row["status"] for (answer,), row in zip(answers, table, strict=True)}
    assert statuses == {"5": "correct", "6": "incorrect", "7": "verifier_error"}
