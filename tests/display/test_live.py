"""The live display: frames of rows written by hand, in terminals of many sizes, and what may not disturb a run."""

from __future__ import annotations

import io
import os
import re
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from test_terminal import HOSTILE, STYLE, steers

from sieverl.display import live
from sieverl.display.frame import NOTES, SECTIONS, Sample, Scene, frame
from sieverl.display.live import LiveProgress
from sieverl.display.look import choose_sample, ends, find_checkpoints
from sieverl.display.said import Notes
from sieverl.display.terminal import Terminal
from sieverl.recipe import Recipe, build, to_toml
from sieverl.run_dir.metrics import line_of
from sieverl.run_dir.rollouts import RolloutRow, write_rollouts
from sieverl.types import Metrics, Note

EVALUATE = {"source": "rows.jsonl", "samples": 2}
HELD = "eval/heldout/avg@2"


def row(step: int, accuracy: float = 0.5, **more: float) -> Metrics:
    """The row of a step of 8 prompts x 4 responses."""
    found: Metrics = {
        "step": step,
        "reward/accuracy": accuracy,
        "reward/mean": accuracy / 2,
        "select/kept_fraction": 0.375,
        "select/prompts": 8.0,
        "select/all_wrong": 0.5,
        "select/all_correct": 0.125,
        "policy/entropy": 1 / step,
        "policy/kl_old": 0.001 * step,
        "rollout/responses": 32.0,
        "rollout/length_mean": 25.4,
        "rollout/truncated": 0.0,
        "verify/no_answer": 0.03125,
        "verify/timeouts": 0.0,
        "verify/errors": 2.0,
        "time/rollout": 3.0,
        "time/update": 1.0,
        "time/step": 4.0,
    }
    return found | {name.replace("__", "/"): value for name, value in more.items()}


def scene(**changes: object) -> Scene:
    notes = Notes()
    for step in (1, 2, 3):
        notes.add(step, "nothing kept: 84% of prompts all wrong, 16% all correct; no update was made")
    settings: dict[str, object] = {
        "title": ["grpo", "shipped model (qwen2, 0.8M parameters)", "cpu", "runs/demo-1"],
        "steps": 12,
        "heldout": HELD,
        "rows": [{"step": 0, HELD: 0.25, "time/evaluate": 4.0}, row(1, 0.25), row(2, 0.5), row(3, 1.0)],
        "left": 754.0,
        "notes": list(notes),
        "sample": Sample(3, "3+4*2", "4*2=8\n3+8=11\n\\boxed{11}", "correct, kept"),
        "checkpoint": (2, 35.0),
    }
    return Scene(**{**settings, **changes})  # type: ignore[arg-type]


def drawn(shown: Scene, width: int, without: int = 0, colour: bool = False) -> list[str]:
    """The lines of a frame in a terminal that is wider."""
    out = io.StringIO()
    Terminal(file=out, force_terminal=True, width=200, color_system="truecolor" if colour else None).print(
        frame(shown, width, without)
    )
    return [line.rstrip() for line in out.getvalue().splitlines()]


WIDE = r"""
run         grpo, shipped model (qwen2, 0.8M parameters), cpu, runs/demo-1
step        ━━━━━━━━────────────────────────── 3 of 12, 25%, 13m left
accuracy    ▁▃█                                100.0% mean 44.0% held out 25.0%
entropy     █▃▁                                0.333
KL          ▁▅█                                0.0030 old to new policy
prompts     ░░░░░░░░░░░░░░░░░▓▓▓▓▓▓▓▓▓▓▓▓▓████ 38% of 32 responses kept
            ░ 4 all wrong  ▓ 3 mixed  █ 1 all right
time        ████████████████████▓▓▓▓▓▓░░░░░░░░ 4.0 s the last step
            █ rollout 56%  ▓ update 19%  ░ evaluate 25%
responses   25 tokens, 3.1% no answer, 0.0% truncated, 0 timeouts, 2 errors
checkpoint  step 2, 35s ago
a response  step 3, correct, kept: 3+4*2
            4*2=8
            3+8=11
            \boxed{11}
warnings    nothing kept: 84% of prompts all wrong, 16% all correct; no update
            was made (3 times, last at step 3)
"""

NARROW = r"""
run         grpo, shipped model (qwen2,
            0.8M parameters), cpu,
            runs/demo-1
step        3 of 12, 25%, 13m left
accuracy    ▁▃█      100.0% mean 44.0%
            held out 25.0%
entropy     █▃▁      0.333
KL          ▁▅█      0.0030 old to new
            policy
prompts     ░░░░▓▓▓█ 38% of 32 responses
            kept
            ░ 4 all wrong  ▓ 3 mixed  █
            1 all right
warnings    nothing kept: 84% of prompts
            all wrong, 16% all correct;
            no update was made (3 times,
            last at step 3)
"""


def test_a_frame_of_80_columns() -> None:
    assert drawn(scene(), 80) == WIDE.strip().splitlines()


def test_a_frame_of_40_columns_without_the_least_important() -> None:
    assert drawn(scene(), 40, without=4) == NARROW.strip().splitlines()


@pytest.mark.parametrize("width", [1, 13, 40, 60, 80, 120])
@pytest.mark.parametrize("without", [0, 5, 99])
def test_frames_fit_their_width(width: int, without: int) -> None:
    for shown in (scene(), scene(rows=[]), scene(sample=Sample(1, "漢字" * 90, "語" * 900, "x" * 300))):
        assert max(Terminal().measure(line).maximum for line in drawn(shown, width, without)) <= max(width, 13)


def test_a_wider_frame_has_longer_curves() -> None:
    rows = [row(step, step % 7 / 7) for step in range(1, 200)]
    curves = [line for width in (60, 80, 120) for line in drawn(scene(rows=rows), width) if line.startswith("entropy")]
    assert [len(re.findall("[▁-█]", line)) for line in curves] == [14, 34, 60]


def test_colours_are_an_addition() -> None:
    coloured = drawn(scene(), 80, colour=True)
    assert any(STYLE.search(line) for line in coloured)
    assert [STYLE.sub("", line).rstrip() for line in coloured] == drawn(scene(), 80)


def test_before_the_first_step_and_while_it_saves() -> None:
    empty = scene(rows=[], notes=[], sample=None, checkpoint=None, left=None, saving=True)
    assert drawn(empty, 80)[1:] == [
        f"step        {'─' * 34} 0 of 12, 0% (no step is done yet)",
        "checkpoint  none yet, saving",
    ]
    assert drawn(scene(saving=True), 80)[10] == "checkpoint  step 2, 35s ago, saving"


def test_the_reward_has_a_curve_where_it_is_graded_or_has_parts() -> None:
    graded = drawn(scene(graded=True), 80)[3]
    assert graded.split() == ["reward", "▁▃█", "0.500"]
    parts = scene(rows=[row(1, reward__math__mean=0.75, reward__brief__mean=0.5)])
    assert drawn(parts, 80)[3].split(maxsplit=2)[2] == "0.250 math 0.750, brief 0.500"


def test_the_KL_to_the_reference_is_shown_where_it_is_measured() -> None:
    rows = [row(1), row(2, eval__heldout__kl_ref=0.0123)]
    assert drawn(scene(rows=rows), 80)[4].endswith("0.0123 to the reference")


def test_what_is_missing_or_not_finite_is_left_out() -> None:
    rows: list[Metrics] = [row(1), {**row(2), "policy/entropy": None}, {**row(3), "policy/entropy": float("nan")}]
    assert drawn(scene(rows=rows), 80)[3].split() == ["entropy", "▄", "1.000"]
    assert len(drawn(scene(rows=[{"step": 3, "reward/accuracy": 0.5}]), 80)) > 3


def test_of_many_warnings_the_latest_are_shown_and_all_at_the_end() -> None:
    notes, names = Notes(), ["a", "b", "c", "d", "e"]
    for step, name in enumerate(names):
        notes.add(step, f"alarm {name}")
    shown = drawn(scene(notes=list(notes)), 80)[-NOTES - 1 :]
    assert [line[12:] for line in shown] == [
        "(2 of other kinds before; all are listed at the end)",
        *(f"alarm {name}" for name in names[2:]),
    ]
    assert [line[12:] for line in drawn(scene(notes=list(notes), ended=True), 80)[-5:]] == [f"alarm {n}" for n in names]


@pytest.mark.parametrize("text", HOSTILE)
def test_what_others_wrote_is_text(text: str) -> None:
    notes = Notes()
    notes.add(1, text)
    parts = {"reward/" + text + "/mean": 0.5}
    shown = scene(
        title=[text, text], notes=list(notes), sample=Sample(1, text, text * 3, text), rows=[{**row(1), **parts}]
    )
    lines = drawn(shown, 80, colour=True)
    assert not steers(STYLE.sub("", "\n".join(lines)))
    assert max(Terminal().measure(STYLE.sub("", line)).maximum for line in lines) <= 80


# --- the region -------------------------------------------------------------------------------------


def response(step: int, group: int, sample: int, text: str = "\\boxed{4}") -> RolloutRow:
    return RolloutRow(
        step=step, group=group, sample=sample, prompt_id=group, prompt=f"prompt {group}", answer="4", response=text,
        reward=0.0, correct=False, status="no_answer", length=3, truncated=False, logp=-1.0, kept=False,
        reason="all_wrong",
    )  # fmt: skip


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    """Of a run with two steps in its directory."""
    made = build({"algorithm": "grpo", "steps": 4, "run_dir": str(tmp_path / "run"), "evaluate": EVALUATE})
    folder = Path(made.run_dir)
    (folder / "rollouts").mkdir(parents=True)
    (folder / "recipe.toml").write_text(to_toml(made))
    (folder / "metrics.jsonl").write_text("".join(line_of(row(step, step / 4)) for step in (1, 2, 3)))
    (folder / "environment.json").write_text('{"starts": [{"model": "qwen2", "parameters": 1234567, "device": "cpu"}]}')
    for step in (1, 2, 3):
        write_rollouts(folder, step, [response(step, group, sample) for group in range(8) for sample in range(4)])
    return made


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def terminal(out: io.StringIO, height: int = 24) -> Terminal:
    return Terminal(file=out, force_terminal=True, width=80, height=height, color_system=None, highlight=False)


@pytest.fixture
def shown(recipe: Recipe, clock: Clock) -> Iterator[LiveProgress]:
    """A display that goes on after step 2."""
    display = LiveProgress(recipe, 2, graded=False, console=terminal(io.StringIO()), clock=clock)
    yield display
    display.close()


def text_of(display: LiveProgress) -> dict[str, str]:
    """Name -> the lines of each section of the frame that is due."""
    out, found, name = io.StringIO(), dict[str, str](), ""
    terminal(out).print(display.draw())
    for line in out.getvalue().splitlines():
        name = line[:12].strip() or name
        found[name] = f"{found.get(name, '')}\n{line[12:].rstrip()}".strip()
    return found


def test_a_resumed_run_shows_its_earlier_rows_and_its_mean_goes_on(shown: LiveProgress, clock: Clock) -> None:
    assert [one["step"] for one in shown.rows] == [1, 2], "step 3 is done again"
    clock.now += 10
    shown(row(3, 1.0), [Note("a note")])
    clock.now += 4
    found = text_of(shown)
    assert found["run"].split("\n")[0] == "grpo, shipped model (qwen2, 1.2M parameters), cpu,"
    assert found["step"].endswith("3 of 4, 75%, 6s left"), "the one step took 10 s, and 4 s of the next have passed"
    assert "100.0% mean 44.0%" in found["accuracy"]  # 0.8 * (0.8 * 0.25 + 0.2 * 0.5) + 0.2 * 1.0
    assert found["warnings"] == "a note"
    assert found["a response"].startswith("step 3, no answer, rejected (all wrong): prompt ")


def test_the_checkpoint_and_its_age(shown: LiveProgress, clock: Clock, recipe: Recipe) -> None:
    folder = Path(recipe.run_dir) / "checkpoints"
    assert text_of(shown)["checkpoint"] == "none yet"
    (folder / ".step-2.tmp").mkdir(parents=True)
    assert text_of(shown)["checkpoint"] == "none yet", "it looks once a second"
    clock.now += 1
    assert text_of(shown)["checkpoint"] == "none yet, saving"
    (folder / ".step-2.tmp").rename(folder / "step-2")
    (folder / "step-2" / "manifest.json").write_text("{}")
    os.utime(folder / "step-2" / "manifest.json", (clock.now, clock.now))
    clock.now += 59
    assert text_of(shown)["checkpoint"] == "step 2, 59s ago"


def test_another_response_now_and_then(shown: LiveProgress, clock: Clock) -> None:
    first = text_of(shown)["a response"]
    assert first.startswith("step 2")
    shown(row(3), [])
    clock.now += live.SAMPLE_S - 1
    assert text_of(shown)["a response"] == first
    clock.now += 1
    assert text_of(shown)["a response"].startswith("step 3")


def test_responses_that_cannot_be_read_are_left_out(recipe: Recipe) -> None:
    folder, rows = Path(recipe.run_dir), [row(3)]
    (folder / "rollouts" / "step-000003.parquet").write_bytes(b"PAR1 damaged")
    assert choose_sample(folder, rows) is None
    assert choose_sample(folder, [row(4)]) is None
    assert choose_sample(folder, []) is None
    assert find_checkpoints(folder).step is None
    write_rollouts(folder, 3, [response(3, group, 0, "x" * 9_000_000) for group in range(8)])
    found = choose_sample(folder, rows)
    assert found is not None
    assert found.response == ends("x" * 9_000_000)
    assert len(found.response) < 2100


@pytest.mark.parametrize("height", [4, 8, 12, 24, 50])
def test_frames_fit_the_height_of_the_terminal(recipe: Recipe, clock: Clock, height: int) -> None:
    display = LiveProgress(recipe, 2, False, terminal(io.StringIO(), height), clock)
    try:
        display(row(3), [Note("a long note " * 30)])
        lines = text_of(display)
        room = max(height, 6)  # the head and the step stay, and the name of a directory may take some lines
        assert sum(text.count("\n") + 1 for text in lines.values()) < room
        assert "step" in lines
        assert (len(lines) == len(SECTIONS) - 1) == (height >= 24), "all but the reward"
    finally:
        display.close()


def test_the_last_frame_stays(recipe: Recipe, clock: Clock) -> None:
    out = io.StringIO()
    display = LiveProgress(recipe, 2, False, terminal(out), clock)
    for step in (3, 4):
        display(row(step), [Note("too long to fit " * 99)])
    display.close()
    last = out.getvalue().rpartition("run         grpo")[2]
    assert "4 of 4, 100%\n" in re.sub(" +\n", "\n", last)
    assert " ".join(last.split()).count("too long to fit") == 99, "however high it is"
    assert last.rstrip().endswith("\x1b[?25h"), "the cursor is to be seen"


def test_no_run_directory_is_no_hindrance(tmp_path: Path, clock: Clock) -> None:
    """Ray may keep it on another machine."""
    display = LiveProgress(build({"run_dir": str(tmp_path / "far")}), 0, False, terminal(io.StringIO()), clock)
    display(row(1), [])
    found = text_of(display)
    display.close()
    assert found["run"].startswith("reinforce_rej, shipped model, auto,")
    assert found["checkpoint"] == "none yet"


# --- nothing of it harms a run ----------------------------------------------------------------------


class Stuck(io.StringIO):
    """A terminal that takes nothing more."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.free = threading.Event(), threading.Event()

    def write(self, text: str) -> int:
        if "accuracy" in text:
            self.asked.set()
            self.free.wait(60)
        return super().write(text)


def test_a_terminal_that_is_stuck_does_not_hold_up_the_run(recipe: Recipe) -> None:
    out = Stuck()
    display = LiveProgress(recipe, 2, False, terminal(out))
    assert out.asked.wait(60), "the thread writes"
    for step in range(3, 1000):
        display(row(step), [Note("a note")])
    assert not out.free.is_set(), "all rows were taken meanwhile"
    out.free.set()
    display.close()
    assert "999 of 4" in out.getvalue()


def test_an_error_while_drawing_comes_with_the_next_row(
    recipe: Recipe, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    display = LiveProgress(recipe, 2, False, terminal(io.StringIO()), clock)
    display(row(3), [])

    def fail(rows: Sequence[object], width: int) -> str:
        raise ZeroDivisionError("in spark")

    monkeypatch.setattr("sieverl.display.frame.spark", fail)
    display.region.refresh()
    display.region.refresh()
    with pytest.raises(ZeroDivisionError):
        display(row(4), [])
    display.close()
