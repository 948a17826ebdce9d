"""The log of responses: what is written is read, whatever is damaged is empty, all files have one schema."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sieverl.run_dir.rollouts import (
    MARK,
    VERSION,
    Kind,
    RolloutRow,
    read_evaluation,
    read_rollouts,
    read_verdicts,
    rollout_path,
    write_rollouts,
)
from sieverl.types import Status, Verdict

ROW = RolloutRow(
    step=3, group=0, sample=0, prompt_id=7, prompt="1+1", answer="2", response="it is 2 \u2713", reward=1.0,
    correct=True, status="correct", length=5, truncated=False, extracted="2", kept=True, advantage=-0.5, logp=-2.25,
    tokens=[3, 1, 4, 1, 5], engine_logp=[-1.0, -0.5, -0.25, -0.5, 0.0], learner_logp=[-1.0, -0.5, -0.5, -0.25, 0.0],
)  # fmt: skip
ROWS = [
    ROW,
    replace(
        ROW, sample=1, response="3", reward=0.0, correct=False, status="incorrect", extracted=None, kept=False,
        reason="incorrect", tokens=[], engine_logp=[], learner_logp=None,
    ),
]  # fmt: skip
EVALUATED = [replace(row, kept=None, advantage=None, reason=None, learner_logp=None) for row in ROWS]
WITH_PARTS = [replace(ROWS[0], parts={"math": 1.0, "brief": None}), replace(ROWS[1], parts={"math": 0.0, "brief": 0.5})]


@pytest.mark.parametrize("kind", ["step", "eval"])
@pytest.mark.parametrize("rows", [ROWS, EVALUATED, WITH_PARTS, []], ids=["step", "eval", "parts", "none"])
def test_what_is_written_is_read(tmp_path: Path, rows: list[RolloutRow], kind: Kind) -> None:
    write_rollouts(tmp_path, 3, rows, kind)
    assert read_rollouts(tmp_path, 3, kind) == rows
    assert [path.name for path in (tmp_path / "rollouts").iterdir()] == [f"{kind}-000003.parquet"]


def test_a_part_that_some_rows_lack_is_null_there(tmp_path: Path) -> None:
    write_rollouts(tmp_path, 3, [ROWS[0], WITH_PARTS[1]])
    found = [dict(row.parts) for row in read_rollouts(tmp_path, 3)]
    assert found == [{"math": None, "brief": None}, {"math": 0.0, "brief": 0.5}]


def test_one_schema_for_steps_and_evaluations(tmp_path: Path) -> None:
    """Null columns keep their type, so that all files of a run are one table."""
    write_rollouts(tmp_path, 3, ROWS)
    write_rollouts(tmp_path, 3, EVALUATED, "eval")
    write_rollouts(tmp_path, 4, [], "eval")
    files = [rollout_path(tmp_path, 3), rollout_path(tmp_path, 3, "eval"), rollout_path(tmp_path, 4, "eval")]
    first, *others = map(pq.read_schema, files)
    assert all(schema.equals(first) for schema in others)
    assert [(name, str(first.field(name).type)) for name in first.names] == [
        *((name, "int64") for name in ("step", "group", "sample", "prompt_id")),
        *((name, "string") for name in ("prompt", "answer", "response")),
        *(("reward", "double"), ("correct", "bool"), ("status", "string"), ("length", "int64"), ("truncated", "bool")),
        *(("extracted", "string"), ("kept", "bool"), ("reason", "string"), ("advantage", "double"), ("logp", "double")),
        *(("policy_version", "int64"), ("tokens", "list<element: int32>")),
        *((name, "list<element: float>") for name in ("engine_logp", "learner_logp")),
    ]
    assert all(schema.metadata[MARK] == str(VERSION).encode() for schema in (first, *others))
    assert pa.concat_tables(map(pq.read_table, files)).num_rows == 4
    write_rollouts(tmp_path, 5, WITH_PARTS)
    assert pq.read_schema(rollout_path(tmp_path, 5)).names == [*first.names, "reward/brief", "reward/math"]


def test_verdicts_by_group_and_sample(tmp_path: Path) -> None:
    write_rollouts(tmp_path, 3, WITH_PARTS)
    found = read_verdicts(tmp_path, 3)
    assert found == {
        (0, 0): ("it is 2 \u2713", Verdict(1.0, True, Status.CORRECT)),
        (0, 1): ("3", Verdict(0.0, False, Status.INCORRECT)),
    }
    assert found[0, 1][1].parts == {"brief": 0.5, "math": 0.0}, "which the comparison of verdicts leaves out"


def test_evaluations_by_prompt_and_sample(tmp_path: Path) -> None:
    write_rollouts(tmp_path, 3, EVALUATED, "eval")
    assert read_evaluation(tmp_path, 3) == {(7, 0): EVALUATED[0], (7, 1): EVALUATED[1]}
    assert read_evaluation(tmp_path, 4) == {}
    assert read_rollouts(tmp_path, 3) == [], "an evaluation is no step"


@pytest.mark.parametrize("keep", [0, 4, 0.5, -1])
def test_a_damaged_file_is_empty(tmp_path: Path, keep: float) -> None:
    write_rollouts(tmp_path, 3, ROWS)
    path = rollout_path(tmp_path, 3)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep) if keep == 0.5 else int(keep)])
    assert read_rollouts(tmp_path, 3) == []
    assert read_verdicts(tmp_path, 3) == {}


def test_a_file_of_another_version_is_empty(tmp_path: Path) -> None:
    write_rollouts(tmp_path, 3, ROWS)
    path = rollout_path(tmp_path, 3)
    pq.write_table(pq.read_table(path).drop_columns(["status"]), path)
    assert read_rollouts(tmp_path, 3) == []


def test_an_old_file_survives_a_write_that_fails(tmp_path: Path) -> None:
    write_rollouts(tmp_path, 3, ROWS)
    wrong: Any = "many"
    with pytest.raises((pa.ArrowException, TypeError)):
        write_rollouts(tmp_path, 3, [replace(ROW, length=wrong)])
    assert read_rollouts(tmp_path, 3) == ROWS


def test_i10_what_cannot_be_stored_is_replaced_and_the_rest_is_read_again(tmp_path: Path) -> None:
    hostile = replace(ROW, prompt="a\ud800", answer="\udfff", response="\x00\x1b]0;t\x07\u202e\ud83d")
    write_rollouts(tmp_path, 3, [hostile])
    assert read_rollouts(tmp_path, 3) == [
        replace(ROW, prompt="a\ufffd", answer="\ufffd", response="\x00\x1b]0;t\x07\u202e\ufffd")
    ]


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("status", ["correct", "made up"]),
        ("status", ["correct", None]),
        ("response", [b"\xff", b""]),
        ("group", ["0", "1"]),
        ("reward", [None, 1.0]),
        ("correct", [1, 0]),
        ("reward/math", ["a", "b"]),
        ("parts", None),
    ],
)
def test_i14_a_file_of_another_schema_is_none_of_ours(tmp_path: Path, column: str, values: list[object] | None) -> None:
    write_rollouts(tmp_path, 3, WITH_PARTS)
    path = rollout_path(tmp_path, 3)
    columns = pq.read_table(path).to_pydict()
    del columns["logp" if values is None else column]
    pq.write_table(pa.table({**columns, **({column: values} if values else {})}), path)
    assert read_rollouts(tmp_path, 3) == []
    assert read_verdicts(tmp_path, 3) == {}
