"""The metrics of a run: one JSON line per step. Every display reads them from the file."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

from sieverl.files import write_text
from sieverl.types import Metrics

EXEMPT = ("time/", "memory/", "rollout/tokens_per_second")  # what differs between identical runs


class MetricsLog:
    """`metrics.jsonl`: row 0 is the evaluation before training, then one row a step, written at once."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def rows(self) -> list[Metrics]:
        """All complete rows; a last line that was cut off by a crash is left out."""
        if not self.path.exists():
            return []
        rows = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                break
        return rows

    def rewind(self, step: int) -> None:
        """Delete the rows after `step`; the resumed run writes them again."""
        rows = [row for row in self.rows() if row["step"] <= step]
        write_text(self.path, "".join(map(_line, rows)))

    def append(self, row: Metrics) -> None:
        """Append one row and flush it to disk; numbers that are not finite become null (JSON has no NaN)."""
        with self.path.open("a", encoding="utf-8") as handle:
            handle.write(_line(row))
            handle.flush()
            os.fsync(handle.fileno())


def _line(row: Metrics) -> str:
    """One row as a line of JSON.

    >>> _line({"step": 1, "train/loss": float("nan")})
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
