"""What a run leaves for those who look at it: log-probs, answers read, reasons, the tokenizer, the environment."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from runs import NOT_EVALUATED, run_it
from tokenizers import Tokenizer

from sieverl.algorithms import ALGORITHMS, get_algorithm
from sieverl.algorithms.algorithm import as_responses
from sieverl.run_dir.rollouts import COLUMNS, RolloutRow, read_rollouts
from sieverl.run_dir.saved import SavedRun
from sieverl.training.about import KEPT
from sieverl.training.records import reasons

SHORT: dict[str, Any] = {**NOT_EVALUATED, "steps": 2}


def logged(run_dir: Path, steps: int = 2) -> list[RolloutRow]:
    return [row for step in range(1, steps + 1) for row in read_rollouts(run_dir, step)]


@pytest.mark.parametrize(
    "changes",
    [
        {"algorithm": "reinforce_rej"},
        {"algorithm": "grpo", "train__minibatches": 2},
        {"algorithm": "ppo", "rollout__staleness": 1},
        {"algorithm": "iterative_dpo", "train__old": "engine"},
    ],
    ids=lambda changes: "-".join(map(str, changes.values())),
)
def test_log_probs_are_the_engines_and_the_learners_where_it_computed_them(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    run_it(tmp_path / "r", **SHORT, **changes)
    rows = logged(tmp_path / "r")
    assert all(len(row.tokens) == len(row.engine_logp) == row.length for row in rows)
    assert all(row.logp == pytest.approx(sum(row.engine_logp), abs=1e-4) for row in rows)
    known = [row for row in rows if row.learner_logp is not None]
    assert {row.kept for row in known} == {True}, "a rejected response is not computed"
    assert [row for row in rows if row.kept] == known
    if "rollout__staleness" in changes or "train__minibatches" in changes:
        return  # other weights sampled it, or had been changed before it was first computed
    for row in known:
        assert row.learner_logp == pytest.approx(row.engine_logp, abs=1e-5)


def test_a_response_is_read_and_decoded_from_the_directory_alone(finished: Path) -> None:
    rows, tokenizer = logged(finished, 3), Tokenizer.from_file(str(finished / "tokenizer.json"))
    assert all(tokenizer.decode(row.tokens) == row.response for row in rows)
    judged = [row for row in rows if row.status in ("correct", "incorrect")]
    assert all(row.extracted is not None for row in judged)
    assert all(row.extracted == row.answer for row in judged if row.correct)
    assert all(row.extracted is None for row in rows if row.status not in ("correct", "incorrect"))
    assert [(row.kept, row.reason) for row in read_rollouts(finished, 0, "eval")] == [(None, None)] * 12


def test_the_answer_that_a_users_function_read_is_not_known(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def right(response, row):\n    return row['answer'] in response\n")
    run_it(tmp_path / "r", **{**SHORT, "steps": 1}, verify__name=f"{tmp_path}/mine.py:right")
    assert {row.extracted for row in logged(tmp_path / "r", 1)} == {None}


# --- reasons ----------------------------------------------------------------------------------------

ROWS = [[1.0, 1.0, 0.0, 0.0], [0.0] * 4, [1.0] * 4]
ALL_KEPT = [None] * 4
WRONG, RIGHT = ["all_wrong"] * 4, ["all_correct"] * 4
BY_HAND: dict[str, list[str | None]] = {
    "reinforce": [*ALL_KEPT * 3],
    "reinforce_rej": [*ALL_KEPT, *WRONG, *RIGHT],
    "reinforce_drop_wrong": [*ALL_KEPT, *WRONG, *ALL_KEPT],
    "reinforce_drop_correct": [*ALL_KEPT, *ALL_KEPT, *RIGHT],
    "grpo": [*ALL_KEPT, *WRONG, *RIGHT],
    "raft": [None, None, "incorrect", "incorrect", *WRONG, *ALL_KEPT],
    "iterative_dpo": [None, "not_chosen", "not_chosen", None, *WRONG, *RIGHT],  # the seed breaks ties
}


@pytest.mark.parametrize("name", BY_HAND)
def test_reasons_by_hand(name: str) -> None:
    responses, _ = as_responses(ROWS)
    assert reasons(responses, get_algorithm(name).credit(responses)) == BY_HAND[name]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_what_is_not_kept_has_a_reason_and_what_is_kept_has_none(name: str) -> None:
    responses, _ = as_responses(ROWS, greedy=[0.5, 0.5, 0.5])
    credit = get_algorithm(name).credit(responses)
    assert [reason is None for reason in reasons(responses, credit)] == credit.keep.tolist()


def test_cut_off_partial_and_ragged() -> None:
    graded, _ = as_responses([[0.5, 0.5, 0.5], [0.25, 0.5, 0.75]])
    assert reasons(graded, get_algorithm("grpo").credit(graded))[:3] == ["all_wrong"] * 3
    assert reasons(graded, get_algorithm("grpo").credit(graded))[4] == "no_advantage", "it is the mean"
    rows, _ = as_responses([1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0], prompt=[7, 7, 3, 9, 7, 3, 9])
    right, wrong = "all_correct", "all_wrong"
    found = reasons(rows, get_algorithm("reinforce_rej").credit(rows))
    assert found == [None, None, right, wrong, None, right, wrong]


def test_a_masked_response_says_so(tmp_path: Path) -> None:
    run_it(tmp_path / "r", **SHORT, algorithm="reinforce", train__mask_truncated=True, rollout__max_tokens=8)
    cut_off = [row for row in logged(tmp_path / "r") if row.truncated]
    assert cut_off
    assert {row.kept for row in cut_off} == {False}
    assert {row.reason for row in cut_off} <= {"truncated", "all_wrong"}


# --- the environment --------------------------------------------------------------------------------


def test_every_start_is_listed_once_and_the_first_stays(tmp_path: Path) -> None:
    run_dir = tmp_path / "r"
    for steps in (1, 1, 2):
        run_it(run_dir, **{**SHORT, "steps": steps})
    starts = SavedRun.read(run_dir).starts
    assert [start["step"] for start in starts] == [0, 1]
    assert starts[0]["versions"]["sieverl"]
    assert starts[0]["model"] == "qwen2"
    many = [{**starts[0], "step": -step} for step in range(30, 0, -1)]
    (run_dir / "environment.json").write_text(json.dumps({"starts": many}))
    run_it(run_dir, **{**SHORT, "steps": 2})
    starts = SavedRun.read(run_dir).starts
    assert len(starts) == KEPT
    assert [start["step"] for start in (starts[0], *starts[-2:])] == [-30, -1, 2]


@pytest.mark.parametrize("text", ["", "{}", '{"starts": 7}', '{"starts": [7, {"step": "x"}]}', "[" * 100_000, "\xff"])
def test_a_damaged_environment_is_written_anew(tmp_path: Path, text: str) -> None:
    run_it(tmp_path / "r", **{**SHORT, "steps": 1})
    (tmp_path / "r" / "environment.json").write_text(text, encoding="latin-1")
    run_it(tmp_path / "r", **{**SHORT, "steps": 2})
    assert [start["step"] for start in SavedRun.read(tmp_path / "r").starts] == [1]


def test_nothing_secret_is_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "sesame-open")
    run_it(tmp_path / "r", **{**SHORT, "steps": 1})
    assert not [path for path in (tmp_path / "r").glob("*.*") if b"sesame" in path.read_bytes()]


# --- the page ---------------------------------------------------------------------------------------


def test_the_page_names_every_column_and_reason() -> None:
    page = (ROOT / "docs" / "run-directory.md").read_text()
    assert re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE) == list(COLUMNS)
    for reason in ("all_wrong", "all_correct", "incorrect", "correct", "truncated", "no_advantage", "not_chosen"):
        assert f"`{reason}`" in page


def test_the_example_of_the_page_runs(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "run-directory.md").read_text()
    code = page.partition("```python\n")[2].partition("```")[0]
    exec(code.replace("runs/demo-1/rollouts/step-000120", str(finished / "rollouts" / "step-000003")), {})
    assert "'reason': 'all_wrong'" in capsys.readouterr().out
