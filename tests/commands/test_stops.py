"""Signals and closed pipes: the codes of the documentation, no traceback, no process left, and the work goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from conftest import ROOT

from sieverl.cli import main
from sieverl.run_dir.parts import Parts
from sieverl.types import Verdict
from sieverl.verify import kept

DEADLINE_S = 120
SIEVERL = [sys.executable, "-m", "sieverl"]
EVAL = ["eval", "--model", "base", "--benchmark", "demo", "--limit", "8", "-k", "2", "--max-num-seqs", "4"]
SLOW = "import time\n\ndef f(response, row):\n    time.sleep(0.2)\n    return float(response)\n"


def until(true: Callable[[], bool], what: str) -> None:
    """Wait for something."""
    end = time.monotonic() + DEADLINE_S
    while not true():
        assert time.monotonic() < end, f"waited {DEADLINE_S} s for {what}"
        time.sleep(0.01)


@contextmanager
def started(command: list[str], cwd: Path, **options: object) -> Iterator[subprocess.Popen[str]]:
    """A running command; in the end it and all that it started are gone."""
    env = os.environ | {"PYTHONPATH": str(ROOT / "src"), "HF_HUB_OFFLINE": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    with subprocess.Popen(command, cwd=cwd, env=env, text=True, **pipes) as process:  # type: ignore[call-overload]
        try:
            yield process
        finally:
            for one in all_of(process) if process.poll() is None else []:
                one.kill()
            process.kill()


def all_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes that it has started."""
    return psutil.Process(process.pid).children(recursive=True)


def gone(processes: list[psutil.Process]) -> bool:
    return not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in processes)


CODES = [(signal.SIGKILL, -9), (signal.SIGTERM, 75), (signal.SIGINT, 130)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The result file of `EVAL`."""
    output = tmp_path_factory.mktemp("whole") / "x.json"
    assert main([*EVAL, "--output", str(output)]) == 0
    return output.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), CODES)
def test_a_stopped_evaluation_goes_on_to_the_same_bytes(
    tmp_path: Path, undisturbed: bytes, number: int, code: int
) -> None:
    with started([*SIEVERL, *EVAL, "--output", "x.json"], tmp_path) as process:
        until(lambda: any(tmp_path.glob("x.json.parts/part-*")) or process.poll() is not None, "the first part")
        children = all_of(process) if process.poll() is None else []
        process.send_signal(number)
        _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == code
    assert "Traceback" not in err
    until(lambda: gone(children), "its processes to leave")
    assert not (tmp_path / "x.json").exists()
    kept = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("x.json.parts/part-*")}
    assert kept
    assert main([*EVAL, "--output", str(tmp_path / "x.json")]) == 0
    assert (tmp_path / "x.json").read_bytes() == undisturbed
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


@pytest.mark.parametrize(("number", "code"), CODES)
def test_a_stopped_verification_goes_on_and_leaves_no_worker(
    tmp_path: Path, number: int, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chunk is two rows here, and each row takes a while."""
    (tmp_path / "slow.py").write_text(SLOW)
    rows = [{"gold": "1", "response": str(n % 2)} for n in range(8)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ["verify", "--verifier", f"{tmp_path}/slow.py:f", "--workers", "1", "--timeout", "3"]
    options += ["--input", f"{tmp_path}/in.jsonl", "--output", f"{tmp_path}/out.jsonl"]
    script = (
        "import sys\nfrom sieverl.verify import kept\nkept.CHUNK = 2\nfrom sieverl.cli import main\nsys.exit(main())"
    )
    with started([sys.executable, "-c", script, *options], tmp_path) as process:
        until(lambda: any(tmp_path.glob("out.jsonl.parts/part-*")) or process.poll() is not None, "the first part")
        children = all_of(process)
        assert children
        process.send_signal(number)
        _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == code
    assert "Traceback" not in err
    until(lambda: gone(children), "its workers to leave")
    before = len(list(tmp_path.glob("out.jsonl.parts/part-*")))
    assert before in (1, 2, 3)
    asked: list[int] = []
    verdicts = kept.kept_verdicts

    def counted(give: kept.Verdicts, pairs: kept.Pairs, parts: Parts) -> list[Verdict]:
        def ask(chunk: kept.Pairs) -> Sequence[Verdict]:
            asked.append(len(chunk))
            return give(chunk)

        return verdicts(ask, pairs, parts)

    monkeypatch.setattr(kept, "CHUNK", 2)
    monkeypatch.setattr("sieverl.commands.verify.kept_verdicts", counted)
    assert main(options) == 0
    assert sum(asked) == 8 - 2 * before
    scored = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["reward"] for row in scored] == [0.0, 1.0] * 4
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["in.jsonl", "out.jsonl", "slow.py"]
    assert not (tmp_path / "out.jsonl.parts").exists()


@pytest.mark.parametrize(("number", "code"), CODES[1:])
@pytest.mark.parametrize("module", ["argparse", "numpy", "sieverl.run_dir.versions", "sieverl.cli"])
def test_a_signal_while_it_imports(tmp_path: Path, module: str, number: int, code: int) -> None:
    """Python says each module that it has imported, so the signal comes right behind that one."""
    command = [sys.executable, "-X", "importtime", "-m", "sieverl", "doctor"]
    with started(command, tmp_path, stdout=subprocess.DEVNULL) as process:
        assert process.stderr
        for line in process.stderr:
            if line.rpartition("|")[2].strip() == module:
                break
        process.send_signal(number)
        err = process.stderr.read()
        assert process.wait(DEADLINE_S) == code
    assert "Traceback" not in err
    assert "Error" not in err


@pytest.mark.parametrize("nth", range(8))
def test_a_signal_while_handlers_change(tmp_path: Path, nth: int) -> None:
    """One that came between the handler and the block that catches its exception ended as an uncaught exception."""
    script = (
        "import os, signal, sys\nimport sieverl.__main__\nset_handler, calls = signal.signal, []\n"
        "def then_send(number, handler):\n    before = set_handler(number, handler)\n    calls.append(number)\n"
        f"    if len(calls) == {nth + 1}:\n        os.kill(os.getpid(), signal.SIGINT)\n    return before\n"
        "signal.signal = then_send\nsys.argv[1:] = ['algorithms']\nsys.exit(sieverl.__main__.main())"
    )
    with started([sys.executable, "-c", script], tmp_path) as process:
        _, err = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == (0 if nth >= 6 else 130), "the last two are set when the command has ended"
    assert "Traceback" not in err


def test_a_second_interrupt_leaves_at_once(tmp_path: Path) -> None:
    """The first one is caught by a command that then cleans up for ever."""
    script = (
        "import sys, time\nfrom sieverl import cli\nfrom sieverl.commands import doctor\n"
        "def run(options):\n    try:\n        print('begun', flush=True)\n        time.sleep(999)\n"
        "    finally:\n        print('cleaning', flush=True)\n        time.sleep(999)\n"
        "doctor.run = run\nsys.exit(cli.main())"
    )
    with started([sys.executable, "-c", script, "doctor"], tmp_path) as process:
        assert process.stdout
        for line in ("begun\n", "cleaning\n"):
            assert process.stdout.readline() == line
            process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE_S) == 130
        assert process.stderr
        assert process.stderr.read() == ""


def test_a_signal_after_the_end_changes_nothing(tmp_path: Path) -> None:
    script = (
        "import atexit, sys, time\nfrom sieverl import cli\nfrom sieverl.__main__ import main\n"
        "def run():\n    atexit.register(lambda: (print('leaving', flush=True), time.sleep(999)))\n    return 3\n"
        "cli.main = run\nsys.exit(main())"
    )
    with started([sys.executable, "-c", script], tmp_path) as process:
        assert process.stdout
        assert process.stdout.readline() == "leaving\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE_S) == 3


@pytest.mark.parametrize("options", [["--help"], ["data", "list"], ["doctor"]])
def test_a_reader_that_leaves_ends_it_quietly(tmp_path: Path, options: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)  # nobody reads: the first write fails, however short it is
    with started([*SIEVERL, *options], tmp_path, stdout=writing) as process:
        os.close(writing)
        _, err = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, err) == (0, "")


@pytest.mark.slow
def test_an_evaluation_whose_reader_leaves_ends_quietly_and_can_go_on(tmp_path: Path, undisturbed: bytes) -> None:
    reading, writing = os.pipe()
    with started([*SIEVERL, *EVAL, "--output", "x.json"], tmp_path, stdout=writing) as process:
        os.close(writing)
        with os.fdopen(reading) as pipe:
            assert pipe.readline()
        _, err = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, err) == (0, "")
    assert main([*EVAL, "--output", str(tmp_path / "x.json")]) == 0
    assert (tmp_path / "x.json").read_bytes() == undisturbed
