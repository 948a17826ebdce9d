"""The curve of a run: a picture of the size it says, from rows written by hand."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from pathlib import Path

import pytest

from sieverl.display.plot import curve, smooth
from sieverl.types import Metrics


def size(path: Path) -> tuple[int, int]:
    """Width and height of a PNG, from its header."""
    start = path.read_bytes()[:24]
    assert start[:8] == b"\x89PNG\r\n\x1a\n"
    assert start[12:16] == b"IHDR"
    return struct.unpack(">II", start[16:24])


def step(number: int, accuracy: float, mean: float | None = None, **more: float | None) -> Metrics:
    reward = accuracy if mean is None else mean
    return {"step": number, "reward/accuracy": accuracy, "reward/mean": reward, "select/kept_fraction": 0.5, **more}


def held(accuracy: float) -> Metrics:
    ci = {"eval_ci/heldout/avg@4/low": accuracy - 0.1, "eval_ci/heldout/avg@4/high": accuracy + 0.1}
    return {"eval/heldout/avg@4": accuracy, **ci}


def drawn(folder: Path, rows: Sequence[Metrics]) -> bytes:
    folder.mkdir(exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    path = curve(folder)
    assert path == folder / "curve.png"
    assert size(path) == (936, 520), "7.2 x 4.0 inches at 130 dots each"
    return path.read_bytes()


STEPS = [{"step": 0, **held(0.2)}, step(1, 0.25), step(2, 0.5), {**step(3, 0.75), **held(0.6)}]


def test_the_picture_shows_training_and_evaluations(tmp_path: Path) -> None:
    whole = drawn(tmp_path / "whole", STEPS)
    assert len(whole) > 10_000
    without = [{k: v for k, v in row.items() if not k.startswith("eval")} for row in STEPS]
    assert drawn(tmp_path / "without", without) != whole
    assert drawn(tmp_path / "again", STEPS) == whole


def test_a_mean_reward_that_is_not_the_accuracy_is_drawn_too(tmp_path: Path) -> None:
    graded = [STEPS[0], step(1, 0.25, mean=-1.5), step(2, 0.5, mean=0.0), STEPS[3]]
    assert drawn(tmp_path / "graded", graded) != drawn(tmp_path / "plain", STEPS)


def test_what_was_not_finite_and_a_line_that_was_cut_off_are_no_hindrance(tmp_path: Path) -> None:
    null = {"train/loss": None, "policy/entropy": None, "train/grad_norm": None}
    rows = [STEPS[0], step(1, 0.25, **null), step(2, 0.5, **null), STEPS[3]]
    assert drawn(tmp_path, rows) == drawn(tmp_path / "plain", STEPS), "the curve shows none of these"
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "rew')
    curve(tmp_path)


@pytest.mark.parametrize("rows", [[], STEPS[:1], [step(1, 0.5)]])
def test_a_run_that_has_hardly_begun(tmp_path: Path, rows: list[Metrics]) -> None:
    drawn(tmp_path, rows)


def test_smooth_by_hand() -> None:
    assert smooth([]) == []
    assert smooth([0.5]) == [0.5]
    assert smooth([1.0, 0.0, 1.0], keep=0.5) == [1.0, 0.5, 0.75]
    assert smooth([1.0, 0.0]) == pytest.approx([1.0, 0.85])
    assert smooth([0.25] * 5) == pytest.approx([0.25] * 5)


@pytest.mark.parametrize(
    "change", [{"reward/mean": None}, {"select/kept_fraction": None}, {"eval_ci/a/avg@4/low": 0.9}]
)
def test_fuzz_a_row_that_lacks_or_contradicts_a_metric_is_no_hindrance(tmp_path: Path, change: Metrics) -> None:
    evaluated = {"eval/a/avg@4": 0.5, "eval_ci/a/avg@4/low": 0.4, "eval_ci/a/avg@4/high": 0.6}
    rows = [*STEPS[:2], {**step(2, 0.5), **evaluated, **change}, {"step": 3, "reward/accuracy": 0.5, "eval/a/avg@4": 1}]
    drawn(tmp_path, rows)
    drawn(tmp_path / "lacking", [{key: x for key, x in row.items() if key not in change} for row in rows])
