"""`sieverl verify`: files in, files out, one clear line for what cannot be read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sieverl import files
from sieverl.commands.verify import verify_file
from sieverl.errors import DataError, StorageError, UsageError
from sieverl.types import Status

ROWS = [
    {"gold": "4", "response": r"so \boxed{4}", "id": 7},
    {"gold": 5, "response": r"so \boxed{4}", "id": 8},
    {"gold": ["x+x"], "response": r"so \boxed{2x}", "id": 9},
    {"gold": "4", "response": "no idea", "id": 10},
    {"gold": "4", "response": r"\boxed{5^{5^{5^5}}}", "id": 11},
]
MATH = {"name": "math"}


def write(path: Path, rows: Sequence[str | Mapping[str, object]]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_rows_come_out_in_order_with_reward_and_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out.jsonl"
    counts = verify_file(MATH, write(tmp_path / "in.jsonl", [*ROWS[:2], "", *ROWS[2:]]), output)
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [(row["reward"], row["status"]) for row in rows] == [
        (1.0, "correct"),
        (0.0, "incorrect"),
        (1.0, "correct"),
        (0.0, "no_answer"),
        (0.0, "verifier_error"),
    ]
    assert [{key: row[key] for key in ROWS[0]} for row in rows] == ROWS
    assert counts[Status.CORRECT] == 2
    printed = capsys.readouterr().out
    assert "5 responses, mean reward 0.4000" in printed
    assert "verifier_error" in printed
    assert "timeout" not in printed


def test_columns_can_be_named_and_parquet_read_and_written(tmp_path: Path) -> None:
    rows = [{"truth": {"target": "4"}, "model": {"text": rf"\boxed{{{n}}}"}} for n in (4, 5)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in.parquet")
    verify_file(MATH, tmp_path / "in.parquet", tmp_path / "out.parquet", ("truth.target", "model.text"))
    found = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert found == [rows[0] | {"reward": 1.0, "status": "correct"}, rows[1] | {"reward": 0.0, "status": "incorrect"}]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{not json", r"in\.jsonl:2.*not JSON"),
        ("[1, 2]", r"in\.jsonl:2.*object is expected"),
        ({"gold": "4"}, r"in\.jsonl:2 has no column 'response'; it has gold\. Name the right one with --response"),
        ({"gold": "4", "respose": "4"}, r"Did you mean respose\?"),
        ({"response": "4"}, r"in\.jsonl:2 has no column 'gold'"),
        ({"gold": None, "response": "4"}, r"in\.jsonl:2: the column 'gold' is empty"),
        ({"gold": "4", "response": None}, r"in\.jsonl:2: the column 'response' is a NoneType; a response is text"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(tmp_path: Path, line: str | dict[str, object], message: str) -> None:
    file = write(tmp_path / "in.jsonl", [ROWS[0], line])
    with pytest.raises(DataError, match=message):
        verify_file(MATH, file, tmp_path / "out.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        verify_file(MATH, tmp_path / "none.jsonl", tmp_path / "out.jsonl")
    with pytest.raises(DataError, match="has no rows"):
        verify_file(MATH, write(tmp_path / "empty.jsonl", []), tmp_path / "out.jsonl")
    (tmp_path / "bad.parquet").write_text("nothing")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        verify_file(MATH, tmp_path / "bad.parquet", tmp_path / "out.jsonl")
    file = write(tmp_path / "in.jsonl", ROWS)
    for output in (tmp_path, tmp_path / "no" / "out.jsonl"):
        with pytest.raises(UsageError, match="Cannot write"):
            verify_file(MATH, file, output)


def test_an_old_output_survives_a_failure(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    output.write_text("old")
    with pytest.raises(DataError):
        verify_file(MATH, write(tmp_path / "in.jsonl", [ROWS[0], "{"]), output)
    assert output.read_text() == "old"


def test_a_full_disk_is_one_line_and_the_old_output_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(operation: str, paths: tuple[Path, ...]) -> None:
        raise OSError(28, "No space left on device")

    output = tmp_path / "out.jsonl"
    output.write_text("old")
    monkeypatch.setattr(files, "watchers", [full])
    with pytest.raises(StorageError, match=r"cannot write the scored rows .* No space left"):
        verify_file(MATH, write(tmp_path / "in.jsonl", ROWS), output)
    assert output.read_text() == "old"


def test_i10_a_lone_surrogate_is_replaced_where_the_row_is_read(tmp_path):
    source = write(tmp_path / "in.jsonl", ['{"gold": "\\udfff4", "response": "so \\\\boxed{4} \\ud83d"}'])
    for name in ("out.jsonl", "out.parquet"):
        verify_file(MATH, source, tmp_path / name)
    row = json.loads((tmp_path / "out.jsonl").read_text())
    assert (row["gold"], row["response"]) == ("\ufffd4", "so \\boxed{4} \ufffd")
    assert pq.read_table(tmp_path / "out.parquet").to_pylist()[0]["response"] == row["response"]
