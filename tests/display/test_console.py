"""What a run shows while it goes on, and its table at the end, from rows written by hand."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from sieverl.display.console import Progress, summary
from sieverl.recipe import build, to_toml
from sieverl.types import Metrics, Note

EVALUATE = {"source": "rows.jsonl", "samples": 2}


def row(step: int, accuracy: float = 0.5, **more: float) -> Metrics:
    """A row of metrics; `held` is the held-out accuracy."""
    held = {"eval/heldout/avg@2": more.pop("held")} if "held" in more else {}
    base = {"reward/accuracy": accuracy, "reward/mean": 2 * accuracy - 1, "select/kept_fraction": 0.25}
    return {"step": step, **base, "policy/entropy": 1.5, "rollout/tokens_per_second": 1234.0, **held, **more}


def shown(
    rows: Sequence[tuple[Metrics, Sequence[Note]]], steps: int, first: int = 0, reward: bool = False
) -> list[str]:
    """The lines on the console."""
    out = io.StringIO()
    recipe = build({"steps": steps, "evaluate": EVALUATE})
    progress = Progress(recipe, first, reward, Console(file=out, width=200))
    for one, notes in rows:
        progress(one, notes)
    return out.getvalue().splitlines()


def cells(line: str) -> list[str]:
    return line.split()


def is_step(line: str) -> bool:
    return line.lstrip()[:1].isdigit()


def steps_of(lines: Sequence[str]) -> list[int]:
    """The steps that have a line: 5 of `5/100  50.0% ...`."""
    return [int(line.split("/")[0]) for line in lines if is_step(line)]


def test_a_short_run_by_hand() -> None:
    before = {"step": 0, "eval/heldout/avg@2": 0.125}
    lines = shown([(before, []), (row(1, 0.5), []), (row(2, 1.0, held=0.25), [])], steps=2)
    assert cells(lines[0]) == ["step", "accuracy", "kept", "entropy", "tokens/s", "held", "out", "left"]
    assert cells(lines[1]) == ["start", "12.5%"]
    assert cells(lines[2])[:5] == ["1/2", "50.0%", "25%", "1.500", "1,234"]
    # the running mean: 0.8 * 0.5 + 0.2 * 1.0; after the last step nothing is left
    assert cells(lines[3]) == ["2/2", "60.0%", "25%", "1.500", "1,234", "25.0%", "0s"]
    assert len(lines) == 4
    ends = [lines[0].index(word) + len(word) for word in ("accuracy", "kept", "entropy", "tokens/s")]
    assert [lines[2][end - 1] for end in ends] == ["%", "%", "0", "4"], "columns are right-aligned under their names"


def test_the_mean_reward_has_a_column_where_it_says_more_than_accuracy() -> None:
    lines = shown([({"step": 0}, []), (row(1, 0.75), [])], steps=1, reward=True)
    assert cells(lines[0])[:4] == ["step", "accuracy", "reward", "kept"]
    assert cells(lines[2])[:4] == ["1/1", "75.0%", "0.500", "25%"]


def test_of_a_long_run_the_first_three_steps_every_fifth_evaluations_and_the_last_are_shown() -> None:
    rows: list[tuple[Metrics, list[Note]]] = [(row(step), []) for step in range(1, 43)]
    rows[6] = (row(7, held=0.5), [])
    assert steps_of(shown(rows, steps=42)) == [1, 2, 3, 5, 7, 10, 15, 20, 25, 30, 35, 40, 42]
    assert steps_of(shown(rows[:40], steps=40)) == list(range(1, 41)), "of a short one each"


def test_an_urgent_note_is_shown_at_once_and_another_with_its_step() -> None:
    urgent, other = Note("NaN [bold] or infinity"), Note("nothing kept", urgent=False)
    rows = [(row(5), [other]), (row(6), [other]), (row(7), [urgent, other]), (row(8), [])]
    lines = shown(rows, steps=100)
    assert steps_of(lines) == [5, 7]
    assert [line.strip() for line in lines if not is_step(line)] == [
        "nothing kept",
        "NaN [bold] or infinity",  # not read as markup
        "nothing kept",
    ]


def test_a_resumed_run_starts_with_the_header_too() -> None:
    lines = shown([(row(11), []), (row(12), [])], steps=12, first=10)
    assert cells(lines[0])[0] == "step"
    assert steps_of(lines[1:]) == [11, 12]


# --- the table at the end ---------------------------------------------------------------------------


def run_dir(folder: Path, rows: Sequence[Metrics]) -> Path:
    (folder / "recipe.toml").write_text(to_toml(build({"algorithm": "grpo", "steps": 2, "evaluate": EVALUATE})))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    return folder


def table(folder: Path, rows: Sequence[Metrics]) -> dict[str, list[str]]:
    """First column -> the others; the title is the key of its own empty row."""
    out = io.StringIO()
    summary(run_dir(folder, rows), Console(file=out, width=200))
    lines = [[cell.strip() for cell in line.strip("│┃").split("│")] for line in out.getvalue().splitlines()]
    return {first: others for first, *others in lines if first and not first.startswith(("┏", "┡", "└"))}


def evaluation(accuracy: float, length: float, **more: float) -> Metrics:
    ci = {"eval_ci/heldout/avg@2/low": accuracy - 0.1, "eval_ci/heldout/avg@2/high": accuracy + 0.1}
    return {"eval/heldout/avg@2": accuracy, "eval/heldout/length_mean": length, **ci, **more}


def test_summary_by_hand(tmp_path: Path) -> None:
    rows = [
        {"step": 0, **evaluation(0.25, 30.0)},
        {**row(1), "policy/entropy": 2.0, "select/kept_fraction": 0.5},
        {**row(2), **evaluation(0.75, 20.0, **{"eval/heldout/kl_ref": 0.0123}), "select/kept_fraction": 0.25},
    ]
    found = table(tmp_path, rows)
    assert "grpo, 2 steps" in found
    assert found["held-out accuracy, avg@2 (95%)"] == ["25.0% (15.0% to 35.0%)", "75.0% (65.0% to 85.0%)"]
    assert found["mean response length, tokens"] == ["30.0", "20.0"]
    assert found["KL to the reference policy, nats a token"] == ["0", "0.0123"]
    assert found["entropy, nats a token"] == ["2.000", "1.500"]
    assert found["responses kept"] == ["", "38%"]  # (0.5 + 0.25) / 2


def test_summary_passes_over_what_was_not_finite(tmp_path: Path) -> None:
    """Not finite is null in metrics.jsonl."""
    rows = [
        {"step": 0, **evaluation(0.25, 30.0)},
        {**row(1), "policy/entropy": None, "train/loss": None},
        {**row(2), **evaluation(0.5, 20.0)},
    ]
    found = table(tmp_path, rows)
    assert found["entropy, nats a token"] == ["1.500", "1.500"]
    assert "KL to the reference policy, nats a token" not in found


def test_summary_of_a_run_without_steps_or_evaluations_is_empty(tmp_path: Path) -> None:
    assert table(tmp_path, []) == {}
    assert table(tmp_path, [{"step": 0, **evaluation(0.25, 30.0)}]) == {}
    assert table(tmp_path, [{"step": 0}, row(1), row(2)]) == {}
