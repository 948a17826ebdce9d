"""A run that gets nowhere: what it waits for and the stacks of its processes, once; it can stop there."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from conftest import ROOT
from runs import fake_run

from sieverl.engines.fake import FakeEngine
from sieverl.engines.protocol import Request
from sieverl.errors import ExitCode
from sieverl.training.loop import train
from sieverl.training.watchdog import Watchdog, _listens

SCRIPT = str(ROOT / "tests" / "training" / "hanging.py")
LONGEST = 60.0  # seconds that a test waits for something that takes a second


def until(found: threading.Event) -> None:
    assert found.wait(LONGEST)
    found.clear()


def test_a_stall_is_told_once_and_the_next_one_again() -> None:
    told: list[dict[str, str]] = []
    again = threading.Event()

    def stalled(phases: dict[str, str], seconds: float) -> None:
        assert seconds > 0.2
        told.append(phases)
        again.set()

    watchdog = Watchdog(0.2, stalled)
    try:
        watchdog.beat("sampling")
        until(again)
        time.sleep(1.0)  # several looks
        assert told == [{"MainThread": "sampling"}]
        watchdog.beat("updating")
        until(again)
        assert told[1:] == [{"MainThread": "updating"}]
    finally:
        watchdog.close()


def test_threads_that_ended_are_forgotten() -> None:
    told: list[dict[str, str]] = []
    found = threading.Event()

    def stalled(phases: dict[str, str], seconds: float) -> None:
        told.append(phases)
        found.set()

    watchdog = Watchdog(0.2, stalled)
    try:
        other = threading.Thread(target=watchdog.beat, args=("updating",), name="part")
        other.start()
        other.join()
        until(found)
        assert told[0] == {}
    finally:
        watchdog.close()


def test_an_engine_that_hangs_is_found_with_its_stack(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = fake_run(tmp_path, ["1"], steps=1, alarms__stalled__seconds=0.5, alarms__engine_mismatch=0)
    file, answer = run.run_dir / "stalled.txt", run.engine
    assert isinstance(answer, FakeEngine)

    def hangs_until_it_was_seen(request: Request, sample: int) -> list[int]:
        deadline = time.monotonic() + LONGEST
        while not (file.exists() and "hangs_until_it_was_seen" in file.read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return list(answer.respond(request, sample))

    run.environment = run.environment.__class__(
        FakeEngine(hangs_until_it_was_seen), run.pool, run.environment.tokenizer, run.world
    )
    with run:
        train(run)
    assert run.state.step == 1, "it only warns"
    said = capfd.readouterr().err
    assert re.search(r"no progress for \d+ s after step 0; waits for: sampling \(MainThread\)", said)
    assert "in hangs_until_it_was_seen" in said
    assert "docs/alarms.md" in said
    assert not [thread for thread in threading.enumerate() if thread.name == "watchdog"]


def test_no_progress_is_watched_where_the_recipe_says_off(tmp_path: Path) -> None:
    names: set[str] = set()
    run = fake_run(tmp_path, ["1"], steps=1, alarms__stalled="off", alarms__engine_mismatch=0)
    with run:
        train(run, lambda row, notes: names.update(thread.name for thread in threading.enumerate()))
    assert names
    assert "watchdog" not in names


def script(how: str, run_dir: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(ROOT / "tests"), str(ROOT / "src")])
    environment = {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, SCRIPT, how, str(run_dir)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)


def test_a_stalled_run_leaves_where_it_is_to_stop(tmp_path: Path) -> None:
    ended = script("waiting", tmp_path / "run")
    assert ended.returncode == ExitCode.ALARM, ended.stderr
    found = (tmp_path / "run" / "stalled.txt").read_text()
    assert "waits for: sampling (MainThread)" in found
    assert " in waiting" in found
    assert found in ended.stderr
    assert "the same command resumes" in ended.stderr
    workers = [int(pid) for pid in re.findall(r"^  (\d+) .*verify\.worker", found, re.MULTILINE)]
    assert workers
    assert not [pid for pid in workers if psutil.pid_exists(pid)], "none is left behind"


def test_a_lock_that_is_held_is_found_too(tmp_path: Path) -> None:
    """Then no thread of ours can look; the interpreter's own watchdog prints the stack."""
    ended = script("locked", tmp_path / "run")
    assert "Timeout (0:00:01" in ended.stderr, ended.stderr
    assert " in locked" in ended.stderr


def test_only_a_process_that_handles_the_signal_gets_it() -> None:
    before = signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    try:
        assert not _listens(os.getpid())
        signal.signal(signal.SIGUSR1, lambda number, frame: None)
        assert _listens(os.getpid())
        assert not _listens(2**22 + 1), "no such process"
    finally:
        signal.signal(signal.SIGUSR1, before)
