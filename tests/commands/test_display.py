"""`--display`: what reaches standard output and standard error in each way, and that the run is the same in all."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from conftest import ROOT
from runs import comparable

from sieverl import cli
from sieverl.commands import screen
from sieverl.commands.screen import Screen, chosen
from sieverl.commands.train import DISPLAYS
from sieverl.launch.work import Start
from sieverl.recipe import Recipe, build
from sieverl.run_dir.metrics import MetricsLog
from sieverl.types import Metrics, Note

Capture = pytest.CaptureFixture[str]
GRADED = """
from sieverl import Verdict

def graded(response, row):
    return Verdict(0.5, False, "incorrect", {"brief": 0.25})
"""


@pytest.fixture
def trained(work: Path) -> Path:
    """A folder for `TRAIN`: two steps with a reward in parts."""
    (work / "mine.py").write_text(GRADED)
    return work


TRAIN = [
    "train",
    "r.toml",
    "--steps",
    "2",
    "--verify.name",
    "mine.py:graded",
    "--data.check_gold=0",
    "--rollout.max_tokens=40",
]


def train(capsys: Capture, run_dir: str, *options: str) -> tuple[str, str]:
    assert cli.main([*TRAIN, "--run-dir", run_dir, *options]) == 0, capsys.readouterr().err
    said = capsys.readouterr()
    return said.out, said.err


def test_each_way_shows_the_same_run(trained: Path, capsys: Capture) -> None:
    out, err = train(capsys, "plain", "--display", "plain")
    assert [line.split()[0] for line in out.splitlines()[:3]] == ["step", "start", "1/2"]
    assert "  mean   reward" in out.splitlines()[0]
    assert "reward of brief 0.250" in out
    ending = ["run directory: plain", "picture:       plain/curve.png", "report:        plain/report.html"]
    assert out.splitlines()[-3:] == ending
    assert err.startswith("qwen2: learner: ")
    assert "step 1: rewards are taken as they are, since not all are 0, 1 or -1;" in " ".join(err.split())
    assert max(map(len, (out + err).splitlines())) <= 80

    out, err = train(capsys, "json", "--display", "json")
    assert [json.loads(line) for line in out.splitlines()] == MetricsLog(trained / "json" / "metrics.jsonl").rows()
    assert "step 1: rewards are taken as they are" in err
    assert "run directory: json" in err

    assert train(capsys, "none", "--display", "none") == ("", "")
    for way in ("json", "none"):
        assert comparable(trained / way) == comparable(trained / "plain")

    out, err = train(capsys, "none", "--display", "auto", "--steps", "3")
    assert out.split()[:2] == ["step", "accuracy"], "plain, since this is no terminal"
    assert "resuming none at step 2 of 3" in err


def test_none_says_errors(trained: Path, capsys: Capture) -> None:
    assert cli.main([*TRAIN, "--display", "none", "--verify.name", "mine.py:nothing"]) == 2
    said = capsys.readouterr()
    assert (said.out, len(said.err.splitlines())) == ("", 1)


def test_the_way_must_be_one_that_there_is(work: Path, capsys: Capture) -> None:
    with pytest.raises(SystemExit):
        cli.main(["train", "r.toml", "--display", "fancy"])
    err = capsys.readouterr().err
    assert all(f"'{way}'" in err for way in DISPLAYS)


def test_on_a_terminal_it_is_live_and_its_last_frame_stays(trained: Path) -> None:
    primary, terminal = pty.openpty()
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24"}
    env.pop("NO_COLOR", None)
    command = [sys.executable, "-m", "sieverl", *TRAIN, "--run-dir", "live"]
    with subprocess.Popen(command, cwd=trained, stdout=terminal, stderr=terminal, env=env) as process:
        os.close(terminal)
        seen = read_all(primary)
    assert process.returncode == 0, seen
    assert "\x1b[1A" in seen, "frames are drawn over each other"
    last = seen[seen.rindex("accuracy") :]
    assert "2 of 2, 100%" in seen
    assert "no answer" in last
    assert "run directory: live" in last
    assert seen.rindex("\x1b[?25h") > seen.rindex("\x1b[?25l"), "the cursor is to be seen"


def read_all(descriptor: int) -> str:
    """What is written to a terminal until its last writer has left."""
    found = b""
    try:
        while part := os.read(descriptor, 65536):
            found += part
    except OSError:  # as Linux ends it
        pass
    os.close(descriptor)
    return found.decode()


# --- which way ----------------------------------------------------------------------------------------


class Terminal(io.TextIOWrapper):
    """Standard output that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("term", "encoding", "expected"),
    [("xterm", "utf-8", "rich"), ("dumb", "utf-8", "plain"), ("xterm", "ascii", "plain"), ("", "UTF8", "rich")],
)
def test_auto_is_rich_on_a_terminal_that_can_do_it(
    monkeypatch: pytest.MonkeyPatch, term: str, encoding: str, expected: str
) -> None:
    monkeypatch.setattr(sys, "stdout", Terminal(io.BytesIO(), encoding=encoding))
    monkeypatch.setenv("TERM", term)
    assert chosen("auto") == chosen("rich") == expected
    assert [chosen(way) for way in ("plain", "json", "none")] == ["plain", "json", "none"]


def test_rich_where_it_cannot_be_is_plain_and_says_so(capsys: Capture) -> None:
    assert Screen(Recipe(), "rich").way == "plain"
    assert capsys.readouterr().err.startswith("--display rich needs a terminal")
    assert Screen(Recipe(), "auto").way == "plain"
    assert capsys.readouterr().err == ""


# --- a display that fails -----------------------------------------------------------------------------

ROW: Metrics = {
    "step": 1, "reward/accuracy": 0.5, "reward/mean": 0.5, "select/kept_fraction": 0.5, "policy/entropy": 1.0,
    "rollout/tokens_per_second": 1.0,
}  # fmt: skip


class Broken:
    """A display that fails at its start, at a row, or at its end."""

    def __init__(self, where: str, *rest: object) -> None:
        self.where = where
        if where == "start":
            raise OSError("at its start")

    def __call__(self, row: Metrics, notes: Sequence[Note]) -> None:
        if self.where == "row":
            raise KeyError("at a row")

    def close(self) -> None:
        if self.where == "end":
            raise ValueError("at its end")


@pytest.mark.parametrize(("where", "shown"), [("start", 2), ("row", 2), ("end", 0)])
def test_an_error_of_the_live_display_is_said_once_and_it_goes_on_as_plain(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, where: str, shown: int
) -> None:
    monkeypatch.setattr(screen, "chosen", lambda display: "rich")
    monkeypatch.setattr(screen, "LiveProgress", lambda *rest: Broken(where))
    made = Screen(build({"steps": 9, "run_dir": str(tmp_path)}), "auto")
    made.started(Start(0, False, False))
    for step in (1, 2):
        made.row({**ROW, "step": step}, [])
    made.close()
    said = capsys.readouterr()
    assert len([line for line in said.out.splitlines() if "/9" in line]) == shown
    (line,) = said.err.splitlines()
    assert f"at {'a row' if where == 'row' else f'its {where}'}" in line
    assert ("goes on as plain" in line) == (where != "end")


def test_a_row_that_plain_cannot_show_ends_the_display_and_not_the_run(tmp_path: Path, capsys: Capture) -> None:
    for way in ("plain", "json"):
        made = Screen(build({"steps": 9, "run_dir": str(tmp_path)}), way)
        made.started(Start(0, False, False))
        made.row({**ROW, "step": 1}, [])
        for step in (2, 3):
            broken: Metrics = {"step": step, "reward/accuracy": 0.5, "bad": object()}
            made.row(broken, [])
        made.close()
        said = capsys.readouterr()
        assert "metrics.jsonl has its rows" in said.err
        assert len(said.err.splitlines()) == 1
        assert said.out
