"""metrics.jsonl: rows survive a crash, what is not finite is null."""

from __future__ import annotations

import math
from pathlib import Path
from unittest.mock import Mock

import pytest

from sieverl.run_dir.metrics import MetricsLog, nonfinite
from sieverl.types import Metrics


def log(folder: Path, *rows: Metrics) -> MetricsLog:
    made = MetricsLog(folder / "metrics.jsonl")
    for row in rows:
        made.append(row)
    return made


def test_rows_come_back_in_order_and_exactly(tmp_path: Path) -> None:
    assert log(tmp_path).rows() == [], "no file yet"
    rows: list[Metrics] = [{"step": 0, "eval/heldout/avg@4": 0.1 + 0.2}, {"step": 1, "train/loss": -1e-300}]
    assert log(tmp_path, *rows).rows() == rows
    assert log(tmp_path, {"step": 2}).rows() == [*rows, {"step": 2}], "another process goes on"


def test_what_is_not_finite_is_null(tmp_path: Path) -> None:
    made = log(tmp_path, {"step": 1, "a": math.nan, "b": math.inf, "c": -math.inf, "d": 0.0, "e": 3})
    assert made.rows() == [{"step": 1, "a": None, "b": None, "c": None, "d": 0.0, "e": 3}]
    assert made.path.read_text() == '{"step": 1, "a": null, "b": null, "c": null, "d": 0.0, "e": 3}\n'


@pytest.mark.parametrize("rest", ["", '{"step": 2', '{"step": 2, "text": "cut', "\x00\x00"])
def test_a_last_line_that_a_crash_cut_short_is_left_out(tmp_path: Path, rest: str) -> None:
    made = log(tmp_path, {"step": 0}, {"step": 1})
    with made.path.open("a") as file:
        file.write(rest)
    assert made.rows() == [{"step": 0}, {"step": 1}]


def test_rewinding_forgets_later_rows_and_the_line_that_was_cut(tmp_path: Path) -> None:
    made = log(tmp_path, {"step": 0}, {"step": 1}, {"step": 2})
    with made.path.open("a") as file:
        file.write('{"step": 3, "cut')
    made.rewind(1)
    made.append({"step": 2, "again": 1})
    assert made.path.read_text() == '{"step": 0}\n{"step": 1}\n{"step": 2, "again": 1}\n'
    made.rewind(-1)
    assert made.rows() == []


def test_nonfinite_counts_by_name() -> None:
    row = {
        "step": 1,
        "nonfinite/advantages": 12.0,
        "nonfinite/losses": 0.0,
        "nonfinite/gradients": 1,
        "train/loss": 2.0,
    }
    assert nonfinite(row) == {"advantages": 12, "gradients": 1}
    assert nonfinite({"step": 1}) == {}


def test_i8_damaged_lines_lose_no_other_row(tmp_path: Path) -> None:
    made = log(tmp_path, {"step": 0}, {"step": 1}, {"step": 2}, {"step": 3})
    lines = made.path.read_bytes().split(b"\n")
    lines[1], lines[2] = b"\0\0\xff", b'["step"]'
    made.path.write_bytes(b"\n".join(lines))
    assert made.rows() == [{"step": 0}, {"step": 3}]
    assert made.damaged() == [2, 3]
    made.rewind(3)
    assert made.path.read_text() == '{"step": 0}\n{"step": 3}\n'
    assert (tmp_path / "metrics.damaged.jsonl").read_bytes().count(b"\n") == 4


@pytest.mark.parametrize(
    "line",
    [
        *('{"loss": 1}', '{"step": "1"}', '{"step": true}', "[" * 100_000, "3", '{"step": 1.5}', '{"step": -1}'),
        *('{"step": 1, "train/loss": "1"}', '{"step": 1, "a": []}', '{"step": 1, "a": true}'),
        *(f'{{"step": {10**30}}}', f'{{"step": {"9" * 5000}}}'),
    ],
)
def test_i14_rows_of_another_schema_are_damage(tmp_path: Path, line: str) -> None:
    made = log(tmp_path, {"step": 0})
    with made.path.open("a") as file:
        file.write(line + "\n")
    assert (made.rows(), made.damaged()) == ([{"step": 0}], [2])


def test_an_append_that_fails_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = log(tmp_path, {"step": 0})
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", Mock(side_effect=OSError(28, "full")))
        with pytest.raises(OSError, match="full"):
            made.append({"step": 1})
    assert made.path.read_text() == '{"step": 0}\n'
    made.append({"step": 1})
    assert made.rows() == [{"step": 0}, {"step": 1}]
