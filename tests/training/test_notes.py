"""What is said of a step that puzzles."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sieverl.run_dir.metrics import MetricsLog
from sieverl.training import notes
from sieverl.types import Metrics


def said(folder: Path, losses: list[float | None]) -> list[int]:
    """The steps at which a run of these losses (None: no update) is told why its loss reads 0."""
    log, told = MetricsLog(folder / "metrics.jsonl"), []
    for step, loss in enumerate(losses, 1):
        row: Metrics = {"step": step, "select/kept_fraction": 1.0, "verify/timeouts": 0.0, "verify/errors": 0.0}
        row |= {"memory/halved": 0.0, "memory/engine_halved": 0.0, "select/all_wrong": 0.0, "select/all_correct": 0.0}
        row |= {} if loss is None else {"train/loss": loss, "train/updates": 1.0}
        log.append(row)
        state = SimpleNamespace(step=step, graded=False)
        run: Any = SimpleNamespace(
            state=state, metrics=log, run_dir=folder, nonfinite={}, declared_graded=False, reasons=Counter(),
            recipe=SimpleNamespace(verify=SimpleNamespace(name="math", correct_from=1.0)),
        )  # fmt: skip
        told += [step for note in notes.notes(run, row) if "reads 0" in note.text]
    return told


@pytest.mark.parametrize(
    ("losses", "steps"),
    [
        ([0.0, 1e-9, -1e-9, 0.0, 0.0], [3]),
        ([None, 0.0, None, 0.0, 0.0, 0.0], [5]),
        ([0.3, 0.0, 0.0, 0.0, 0.0], []),  # as many right as wrong in a small batch: chance
        ([0.0, 0.0, 0.2, 0.0, 0.0, 0.0], []),
        ([None] * 20 + [0.0] * 5, []),
    ],
)
def test_a_loss_of_zero_is_explained_once_where_it_is_the_rule(
    tmp_path: Path, losses: list[float | None], steps: list[int]
) -> None:
    assert said(tmp_path, losses) == steps


def test_the_metrics_are_not_read_again_in_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[MetricsLog] = []
    rows = MetricsLog.rows

    def counted(log: MetricsLog) -> list[Metrics]:
        reads.append(log)
        return rows(log)

    monkeypatch.setattr(MetricsLog, "rows", counted)
    said(tmp_path, [0.1] * 200)
    assert len(reads) <= notes.EARLY
