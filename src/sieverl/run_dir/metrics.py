"""The run's own record: one JSON line a step, one Parquet file of responses a step. Every display reads these."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sieverl.files import write_text

EXEMPT = ("time/", "memory/", "rollout/tokens_per_second")  # what differs between identical runs


class MetricsLog:
    """`metrics.jsonl`: row 0 is the evaluation before training, then one row a step, written as it is made."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def rows(self) -> list[dict[str, Any]]:
        """Every whole row; a last line that a crash cut short is left out."""
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
        """Forget rows after `step`: they will be made again, the same."""
        rows = [row for row in self.rows() if row["step"] <= step]
        write_text(self.path, "".join(map(_line, rows)))

    def append(self, row: Mapping[str, Any]) -> None:
        """Add one row and flush it to disk; what is not finite is null there, since JSON knows no NaN."""
        with self.path.open("a", encoding="utf-8") as handle:
            handle.write(_line(row))
            handle.flush()
            os.fsync(handle.fileno())


def _line(row: Mapping[str, Any]) -> str:
    """One row as a line of JSON.

    >>> _line({"step": 1, "train/loss": float("nan")})
    '{"step": 1, "train/loss": null}\\n'
    """
    finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
    return json.dumps(finite, allow_nan=False) + "\n"


def nonfinite(row: Mapping[str, Any]) -> dict[str, int]:
    """What of a step's update was NaN or infinite, and how many.

    >>> nonfinite({"step": 1, "nonfinite/advantages": 12.0, "nonfinite/losses": 0.0})
    {'advantages': 12}
    """
    return {k.removeprefix("nonfinite/"): int(v) for k, v in row.items() if k.startswith("nonfinite/") and v}
