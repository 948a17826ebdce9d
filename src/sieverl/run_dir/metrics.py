"""The metrics of a run: one JSON line per step. Every display reads them from the file."""

from __future__ import annotations

import json
import math
import shutil
from itertools import islice
from pathlib import Path
from types import NoneType

from sieverl.files import append, atomic_write, write_text
from sieverl.types import Metrics

LARGEST = 2**53  # step
EXEMPT = ("time/", "memory/", "rollout/tokens_per_second")  # what differs between identical runs


class MetricsLog:
    """`metrics.jsonl`: row 0 is the evaluation before training, then one row a step, written at once."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def rows(self) -> list[Metrics]:
        """All complete rows; a last line that was cut off by a crash, and lines that are damaged, are left out."""
        return self._read()[0]

    def damaged(self) -> list[int]:
        """The numbers of the lines, from 1, that are no rows; a last one that was cut off by a crash is not among them.

        >>> MetricsLog(Path("nowhere/metrics.jsonl")).damaged()
        []
        """
        return self._read()[1]

    def _read(self) -> tuple[list[Metrics], list[int]]:
        if not self.path.exists():
            return [], []
        rows, damaged = [], []
        *lines, rest = self.path.read_bytes().split(b"\n")
        for number, line in enumerate(lines, 1):
            row = _row(line)
            if row is None:
                damaged.append(number)
            else:
                rows.append(row)
        if (row := _row(rest)) is not None:
            rows.append(row)
        return rows, damaged

    def after(self, offset: int, count: int) -> tuple[list[Metrics], int]:
        """Up to `count` whole lines from byte `offset` on, their rows, and where they end: for one who follows a run.

        >>> MetricsLog(Path("nowhere/metrics.jsonl")).after(0, 9)
        ([], 0)
        """
        if not self.path.exists():
            return [], offset
        with self.path.open("rb") as file:
            file.seek(offset)
            lines = [line for line in islice(file, count) if line.endswith(b"\n")]
        return [row for line in lines if (row := _row(line)) is not None], offset + sum(map(len, lines))

    def rewind(self, step: int) -> None:
        """Delete the rows after `step`; the resumed run writes them again.

        A file with damaged lines is first copied to `metrics.damaged.jsonl`.
        """
        rows, damaged = self._read()
        if damaged:
            atomic_write(self.path.with_name("metrics.damaged.jsonl"), lambda copy: _copy(self.path, copy))
        write_text(self.path, "".join(line_of(row) for row in rows if row["step"] <= step))

    def append(self, row: Metrics) -> None:
        """Append one row and flush it to disk; numbers that are not finite become null (JSON has no NaN)."""
        append(self.path, line_of(row))


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)


def _row(line: bytes) -> Metrics | None:
    """The row of one line, or None where it is none: an object of numbers with a step, a whole number."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    numbers = isinstance(row, dict) and all(type(value) in (int, float, NoneType) for value in row.values())
    is_row = numbers and type(row.get("step")) is int and 0 <= row["step"] <= LARGEST
    return row if is_row else None


def line_of(row: Metrics) -> str:
    """One row as a line of JSON.

    >>> line_of({"step": 1, "train/loss": float("nan")})
    '{"step": 1, "train/loss": null}\\n'
    """
    finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
    return json.dumps(finite, allow_nan=False) + "\n"


def nonfinite(row: Metrics) -> dict[str, int]:
    """How many values of each kind were NaN or infinite in a step's update.

    >>> nonfinite({"step": 1, "nonfinite/advantages": 12.0, "nonfinite/losses": 0.0})
    {'advantages': 12}
    """
    return {k.removeprefix("nonfinite/"): int(v) for k, v in row.items() if k.startswith("nonfinite/") and v}
