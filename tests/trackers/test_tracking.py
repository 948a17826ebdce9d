"""Trackers are fed from the run directory: each row once, whatever they raise, however long they take."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from doc_blocks import blocks
from runs import recipe
from saved_runs import make_run

from sieverl.errors import UsageError
from sieverl.launch.work import Start, work
from sieverl.recipe import Trackers, build
from sieverl.run_dir.metrics import MetricsLog
from sieverl.trackers import Chosen, Entry, Place, Tracking, chosen, given
from sieverl.trackers.feed import TRIES
from sieverl.trackers.secrets import redacted
from sieverl.types import Metrics, Note


class Kept:
    """A tracker that keeps what it is given; `fails` raises for some entries."""

    where = "nowhere"

    def __init__(self, fails: Callable[[Entry], object] = lambda entry: None) -> None:
        self.entries: list[Entry] = []
        self.tried: list[int] = []
        self.ended: list[bool] = []
        self.fails = fails
        self.over = threading.Event()

    def log(self, entry: Entry) -> None:
        self.tried.append(entry.step)
        self.fails(entry)
        self.entries.append(entry)

    def close(self, ok: bool) -> None:
        self.ended.append(ok)
        self.over.set()

    @property
    def steps(self) -> list[int]:
        return [entry.step for entry in self.entries]


def track(run: Path, *trackers: Any, ok: bool = True, **settings: Any) -> list[str]:
    """A start of a run in whose directory all rows are already; what was said."""
    said: list[str] = []
    Tracking(given(trackers), run, Trackers(**settings), said.append).close(ok)
    return said


def append(run: Path, *steps: int) -> None:
    for step in steps:
        MetricsLog(run / "metrics.jsonl").append({"step": step, "train/loss": step / 2})


def fail(entry: Entry) -> None:
    raise ConnectionError("no network")


# --- what they are given ----------------------------------------------------------------------------


def test_every_row_with_its_names_and_some_steps_with_their_responses(tmp_path: Path) -> None:
    run, tracker = make_run(tmp_path, steps=4), Kept()
    with (run / "metrics.jsonl").open("a") as log:
        log.write('{"step": 5, "train/loss": null, "eval/demo/avg@4": 0.5}\nno row\n{"step": 6')
    assert track(run, tracker, groups_every=4, groups=2) == ["Kept: nowhere"]
    rows = MetricsLog(run / "metrics.jsonl").rows()
    assert [dict(entry.metrics) for entry in tracker.entries[:5]] == [
        {name: value for name, value in row.items() if name != "step"} for row in rows[:5]
    ]
    assert dict(tracker.entries[5].metrics) == {"eval/demo/avg@4": 0.5}, "a null is no number"
    assert [entry.step for entry in tracker.entries if entry.groups] == [1, 4]
    first = tracker.entries[1]
    np.testing.assert_array_equal(first.histograms["responses/reward"], [0, 0, 0, 0, 1, 1, 0, 0, 1, 1, 1, 1])
    assert set(first.histograms) == {"responses/reward", "responses/length", "responses/advantage"}
    assert [(row["group"], row["sample"]) for row in first.groups] == [(g, k) for g in (0, 1) for k in range(4)]
    assert first.groups[0]["prompt"] == "0 + 1 = ?"
    assert tracker.ended == [True]


def test_responses_that_cannot_be_read_leave_the_metrics(tmp_path: Path) -> None:
    run, tracker = make_run(tmp_path), Kept()
    (run / "rollouts" / "step-000001.parquet").write_bytes(b"PAR1")
    track(run, tracker)
    assert tracker.steps == [0, 1, 2, 3]
    assert not tracker.entries[1].groups


def test_a_row_goes_out_while_the_run_goes_on(tmp_path: Path) -> None:
    run, came = make_run(tmp_path), threading.Event()

    def tracker(row: Metrics) -> None:
        if row["step"] == 4:
            came.set()

    with Tracking(given([tracker]), run, Trackers()) as tracking:
        append(run, 4)
        tracking.row({"step": 4})
        assert came.wait(60)


# --- resume -----------------------------------------------------------------------------------------


def test_a_resumed_run_goes_on_in_the_same_place_and_gives_no_step_twice(tmp_path: Path) -> None:
    """The tracker is ahead of the checkpoint: steps 2 and 3 are made again."""
    run, places = make_run(tmp_path), list[Place]()
    tracker = Kept()

    def one(settings: Trackers) -> None:
        def open_tracker(place: Place) -> Kept:
            places.append(place)
            return tracker

        Tracking([Chosen("one", open_tracker)], run, settings).close()

    one(Trackers())
    MetricsLog(run / "metrics.jsonl").rewind(1)
    append(run, 2, 3, 4)
    one(Trackers(run_name="other"))
    assert tracker.steps == [0, 1, 2, 3, 4]
    assert tracker.entries[2].metrics != {"train/loss": 1.0}, "the first values stay"
    assert [(place.first, place.name, place.project) for place in places] == [
        (True, "one", "sieverl"),
        (False, "other", "sieverl"),
    ]
    assert places[0].id == places[1].id
    one(Trackers(project="second"))
    assert tracker.steps[5:] == [0, 1, 2, 3, 4], "another project gets the whole run"
    assert places[2].id != places[0].id


def test_a_tracker_that_comes_later_gets_the_whole_run(tmp_path: Path) -> None:
    run, late = make_run(tmp_path), Kept()
    track(run)
    (run / "trackers").mkdir()
    (run / "trackers" / "Kept.json").write_text('{"project": 3')
    track(run, late)
    assert late.steps == [0, 1, 2, 3]


KILLED = """
import os, signal, sys
from pathlib import Path
from sieverl.recipe import Trackers
from sieverl.trackers import Tracking, given
def tracker(row):
    with open(sys.argv[2], "a") as out:
        out.write(f"{row['step']}\\n")
    if len(sys.argv) > 3 and row["step"] == 2:
        os.kill(os.getpid(), signal.SIGKILL)
Tracking(given([tracker]), Path(sys.argv[1]), Trackers()).close()
assert not {"wandb", "mlflow", "trackio", "tensorboard"} & set(sys.modules)  # before they are used
"""


def test_no_step_twice_after_kill_9_in_the_middle_of_one(tmp_path: Path) -> None:
    run, out = make_run(tmp_path), tmp_path / "out"
    path = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", KILLED, str(run), str(out)]
    assert subprocess.run([*command, "kill"], env=path, timeout=300).returncode == -signal.SIGKILL
    assert out.read_text().split() == ["0", "1", "2"]
    assert subprocess.run(command, env=path, timeout=300).returncode == 0
    assert out.read_text().split() == ["0", "1", "2", "3"]


# --- what goes wrong --------------------------------------------------------------------------------


def test_a_row_that_is_not_taken_is_tried_again_and_then_left_out(tmp_path: Path) -> None:
    run = make_run(tmp_path, steps=0)

    def no_accuracy(entry: Entry) -> object:
        return entry.metrics["reward/accuracy"]  # a KeyError in row 0, which has none

    tracker, said = Kept(no_accuracy), list[str]()
    tried = threading.Semaphore(0)

    def log(entry: Entry) -> None:
        try:
            Kept.log(tracker, entry)
        finally:
            tried.release()

    tracker.log = log  # type: ignore[method-assign]
    tracking = Tracking(given([tracker]), run, Trackers(), said.append)
    assert tried.acquire(timeout=60)
    for step in (1, 2, 3):
        MetricsLog(run / "metrics.jsonl").append({"step": step, "reward/accuracy": 0.5})
        said += [note.text for note in tracking.row({"step": step})]
        assert tried.acquire(timeout=60)
    tracking.close()
    assert tracker.tried == [0] * TRIES + [1, 2, 3]
    assert len([text for text in said if "failed (KeyError: 'reward/accuracy'); the run goes on" in text]) == 1
    assert said[-1] == "the tracker Kept did not take 1 rows"


def test_what_was_not_taken_goes_out_at_the_next_start(tmp_path: Path) -> None:
    run, down, up = make_run(tmp_path), Kept(fail), Kept()
    said = track(run, down, ok=False)
    assert said[1:] == [
        "the tracker Kept failed (ConnectionError: no network); the run goes on, and metrics.jsonl has its rows",
        "the tracker Kept did not take all rows; the same command gives it the rows after step -1",
    ]
    assert down.ended == [False]
    track(run, up)
    assert up.steps == [0, 1, 2, 3]


@pytest.mark.parametrize("error", [ImportError("half of it is missing"), SystemExit(1), KeyboardInterrupt()])
def test_a_package_that_raises_while_it_opens_is_no_end(tmp_path: Path, error: BaseException) -> None:
    run, said, opened = make_run(tmp_path), list[str](), threading.Semaphore(0)

    def open_tracker(place: Place) -> Kept:
        opened.release()
        raise error

    tracking = Tracking([Chosen("broken", open_tracker)], run, Trackers(), said.append)
    for step in range(4, 9):
        append(run, step)
        said += [note.text for note in tracking.row({"step": step})]
        if step < 6:
            assert opened.acquire(timeout=60)
    tracking.close()
    assert tracking.feeds == []
    assert "the tracker broken failed (" in " ".join(said)
    assert said[-1].endswith("the rows after step -1")


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """Ends what hangs, after the test."""
    event = threading.Event()
    yield event
    event.set()


def test_one_that_hangs_is_left_behind_and_holds_up_no_other(tmp_path: Path, release: threading.Event) -> None:
    run, said, came = make_run(tmp_path), list[str](), threading.Event()
    other = Kept(lambda entry: came.set() if entry.step == 3 else None)
    hangs = Kept(lambda entry: release.wait() if entry.step == 1 else None)
    tracking = Tracking(given([hangs, other]), run, Trackers(timeout_s=0.5), said.append)
    assert came.wait(60)
    tracking.close()
    assert "Kept was not done 0.5 s after the end of the run (trackers.timeout_s) and is left behind" in " ".join(said)
    assert other.over.wait(60)
    assert other.steps == [0, 1, 2, 3]
    release.set()
    assert hangs.over.wait(60)
    assert hangs.steps in ([], [0], [0, 1]), "what comes after that is for the next start"
    track(run, hangs)
    assert hangs.steps == [0, 1, 2, 3]


def test_one_that_fails_at_its_end_says_so(tmp_path: Path) -> None:
    tracker = Kept()

    def close(ok: bool) -> None:
        raise OSError("the disk is full")

    tracker.close = close  # type: ignore[method-assign]
    assert "OSError: the disk is full" in track(make_run(tmp_path), tracker)[1]


def test_secrets_are_not_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")

    def leak(entry: Entry) -> None:
        raise ValueError("key 0123456789abcdef is refused by https://me:word@host/x")

    run = make_run(tmp_path)
    said = " ".join(track(run, Kept(leak)))
    assert "key [WANDB_API_KEY] is refused by https://...@host/x" in said
    assert redacted("nothing of it") == "nothing of it"
    texts = [path.read_text(errors="replace") for path in run.rglob("*.json*")]
    assert texts
    assert not [text for text in texts if "0123456789abcdef" in text]


def test_the_examples_of_the_page_work(capsys: pytest.CaptureFixture[str]) -> None:
    found = {block.language: block.text for block in reversed(blocks(ROOT / "docs" / "trackers.md"))}
    toml, python = found["toml"], found["python"]
    assert build(tomllib.loads(toml)).trackers.use == ("tensorboard", "wandb")
    scope: dict[str, Any] = {}
    exec(python, scope)
    scope["my_tracker"]({"step": 0})
    scope["my_tracker"]({"step": 1, "reward/accuracy": 0.5})
    assert capsys.readouterr().out == "1 0.5\n"


def test_names_of_other_trainers_and_a_name_alone() -> None:
    assert build({}, {"trackers.use": "wandb"}).trackers.use == ("wandb",)
    assert build({}, {"trackers.use": "wandb,mlflow"}).trackers.use == ("wandb", "mlflow")
    assert build({"trackers": {"use": "none"}}) == build({})
    for name, key in (("report_to", "use"), ("experiment_name", "run_name"), ("project_name", "project")):
        with pytest.raises(UsageError, match=rf"Did you mean trackers\.{key}\?"):
            build({}, {name: "x"})


# --- what is refused --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("use", "said"),
    [
        ("wandbb", "trackers.use names 'wandbb', which is none of .* Did you mean wandb?"),
        ("nowhere.py:f", "nowhere.py is not a file; write FILE.py:NAME"),
        ("mine.py:other", "mine.py has no function or tracker named 'other'"),
        ("broken.py:f", "broken.py cannot be imported: ZeroDivisionError"),
    ],
)
def test_a_tracker_that_is_not_there_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, use: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("def f(row): ...\n")
    (tmp_path / "broken.py").write_text("1 / 0\n")
    with pytest.raises(UsageError, match=said):
        chosen(Trackers(use=(use,)))


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "trackio", "mlflow"])
def test_a_missing_package_is_refused_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UsageError, match=rf"pip install 'sieverl\[{name}\]'"):
        work(recipe(tmp_path / "run", trackers__use=name), "auto", Heard())
    assert not (tmp_path / "run").exists()


def test_what_is_no_tracker_is_refused() -> None:
    with pytest.raises(UsageError, match="is neither"):
        given([3])


# --- with a run -------------------------------------------------------------------------------------


class Heard:
    """A watcher that remembers what was said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def started(self, start: Start) -> None:
        pass

    def row(self, row: Metrics, notes: Any) -> None:
        self.said += [note.text for note in notes if isinstance(note, Note)]


def test_a_run_whose_trackers_raise_and_hang_has_all_its_rows_and_may_be_resumed_with_others(
    tmp_path: Path, release: threading.Event
) -> None:
    file, out = tmp_path / "my_tracker.py", tmp_path / "out.jsonl"
    file.write_text(
        "import json\n\nclass Mine:\n    def log(self, entry):\n"
        f"        with open({str(out)!r}, 'a') as out:\n"
        "            out.write(json.dumps([entry.step, len(entry.groups)]) + '\\n')\n"
    )

    def raises(row: Metrics) -> None:
        raise RuntimeError("out of order")

    def hangs(row: Metrics) -> None:
        release.wait()

    mine = f"{file}:Mine"
    first, heard = recipe(tmp_path / "run", steps=2, trackers__use=mine, trackers__timeout_s=2), Heard()
    assert work(first, "auto", heard, trackers=[raises, hangs]).step == 2
    assert [row["step"] for row in MetricsLog(tmp_path / "run" / "metrics.jsonl").rows()] == [0, 1, 2]
    assert len([text for text in heard.said if "raises failed (RuntimeError: out of order)" in text]) == 1
    assert [text for text in heard.said if "hangs was not done 2 s after the end of the run" in text]
    second = recipe(tmp_path / "run", steps=3, trackers__use=mine, trackers__groups_every=3)
    assert work(second, "must", Heard()).step == 3
    assert [json.loads(line) for line in out.read_text().splitlines()] == [[0, 0], [1, 16], [2, 0], [3, 16]]
