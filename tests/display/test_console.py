"""What a run shows while it goes on, and its table at the end, from rows written by hand."""

from __future__ import annotations

import io
import itertools
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
    rows: Sequence[tuple[Metrics, Sequence[Note]]],
    steps: int,
    first: int = 0,
    reward: bool = False,
    earlier: Sequence[Metrics] = (),
) -> list[str]:
    """The lines on the console; the clock goes on by ten seconds each time that it is asked."""
    out = io.StringIO()
    recipe = build({"steps": steps, "evaluate": EVALUATE})
    console, ticks = Console(file=out, width=200), itertools.count(0, 10)
    progress = Progress(recipe, first, reward, console, earlier=earlier, clock=lambda: float(next(ticks)))
    for one, notes in rows:
        progress(one, notes)
    progress.close()
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
    assert cells(lines[0]) == ["step", "accuracy", "mean", "kept", "entropy", "tokens/s", "held", "out", "left"]
    assert cells(lines[1]) == ["start", "12.5%"]
    assert cells(lines[2]) == ["1/2", "50.0%", "50.0%", "25%", "1.500", "1,234", "10s"]
    # the step's own accuracy, and the running mean: 0.8 * 0.5 + 0.2 * 1.0; after the last step nothing is left
    assert cells(lines[3]) == ["2/2", "100.0%", "60.0%", "25%", "1.500", "1,234", "25.0%", "0s"]
    assert len(lines) == 4
    ends = [lines[0].index(word) + len(word) for word in ("accuracy", "mean", "kept", "entropy", "tokens/s")]
    assert [lines[2][end - 1] for end in ends] == ["%", "%", "%", "0", "4"], "right-aligned under their names"


def test_the_mean_reward_has_a_column_where_it_says_more_than_accuracy() -> None:
    lines = shown([({"step": 0}, []), (row(1, 0.75), [])], steps=1, reward=True)
    assert cells(lines[0])[:5] == ["step", "accuracy", "mean", "reward", "kept"]
    assert cells(lines[2])[:5] == ["1/1", "75.0%", "75.0%", "0.500", "25%"]


def test_the_parts_of_a_reward_have_a_line_of_their_own() -> None:
    parts = {"reward/math/mean": 0.5, "reward/brief \x1b[2J/mean": 0.25, "reward/none/mean": None}
    lines = shown([(row(1, **parts), [])], steps=1)  # type: ignore[arg-type]
    assert lines[2].strip() == "reward of math 0.500, brief \\x1b[2J 0.250"


def test_S10_the_running_mean_goes_on_over_a_resume() -> None:
    """It began anew, in a column `accuracy` that did not say that it was one."""
    rows = [row(step, accuracy) for step, accuracy in enumerate((0.5, 1.0, 0.25, 0.75), 1)]
    whole = shown([(one, []) for one in rows], steps=4)
    resumed = shown([(one, []) for one in rows[2:]], steps=4, first=2, earlier=[{"step": 0}, *rows])
    assert [cells(line)[:3] for line in resumed[1:]] == [cells(line)[:3] for line in whole[3:]]
    assert cells(resumed[1])[1:3] == ["25.0%", "53.0%"]  # 0.8 * (0.8 * 0.5 + 0.2 * 1.0) + 0.2 * 0.25


def test_lines_fit_80_columns_whatever_they_hold() -> None:
    text = "alarm kl: " + "the KL to the reference policy is high " * 5
    largest = {"reward/mean": -12.345, "policy/entropy": 11.234, "rollout/tokens_per_second": 123_456.0}
    parts = {f"reward/part-{n}/mean": 0.123 for n in range(9)}
    one = row(99_990, 1.0, held=1.0, **largest, **parts)
    lines = shown([({"step": 0}, []), (one, [Note(text)])], steps=99_999, reward=True)
    assert max(map(len, lines)) == 80
    note = next(i for i, line in enumerate(lines) if line.startswith("step 99990: alarm kl: the KL"))
    assert len(lines) > note + 2
    assert all(line.startswith("  ") for line in lines[note + 1 :]), "of a note the further lines are indented"
    path = "/".join(["folder"] * 20)
    assert path in "".join(shown([(row(1), [Note(f"see {path}")])], steps=1)), "which can be copied"


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
    assert lines[2:3] + lines[4:] == [
        "step 5: nothing kept",
        "step 7: NaN [bold] or infinity",  # not read as markup
        "step 7: nothing kept (3 times, last at step 7)",
    ]


def test_a_note_that_comes_again_is_said_when_its_count_has_doubled_and_at_the_end() -> None:
    rows = [(row(step), [Note(f"nothing kept: {step}% of prompts"), *[Note("other")] * (step == 3)]) for step in
            range(1, 12)]  # fmt: skip
    notes = [line for line in shown(rows, steps=11) if "nothing" in line or "other" in line]
    assert notes == [
        "step 1: nothing kept: 1% of prompts",
        "step 2: nothing kept: 2% of prompts (2 times, last at step 2)",
        "step 3: other",
        "step 4: nothing kept: 4% of prompts (4 times, last at step 4)",
        "step 8: nothing kept: 8% of prompts (8 times, last at step 8)",
        "nothing kept: 11% of prompts (11 times, last at step 11)",
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
    assert found["held-out avg@2 (95%)"] == ["25.0% (15.0% to 35.0%)", "75.0% (65.0% to 85.0%)"]
    assert found["mean length, tokens"] == ["30.0", "20.0"]
    assert found["KL to the start, nats"] == ["0", "0.0123"]
    assert found["entropy, nats"] == ["2.000", "1.500"]
    assert found["responses kept"] == ["", "38%"]  # (0.5 + 0.25) / 2


def test_summary_passes_over_what_was_not_finite(tmp_path: Path) -> None:
    """Not finite is null in metrics.jsonl."""
    rows = [
        {"step": 0, **evaluation(0.25, 30.0)},
        {**row(1), "policy/entropy": None, "train/loss": None},
        {**row(2), **evaluation(0.5, 20.0)},
    ]
    found = table(tmp_path, rows)
    assert found["entropy, nats"] == ["1.500", "1.500"]
    assert "KL to the start, nats" not in found


def test_summary_of_a_run_without_steps_or_evaluations_is_empty(tmp_path: Path) -> None:
    assert table(tmp_path, []) == {}
    assert table(tmp_path, [{"step": 0, **evaluation(0.25, 30.0)}]) == {}
    assert table(tmp_path, [{"step": 0}, row(1), row(2)]) == {}
