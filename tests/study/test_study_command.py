"""`sieverl study`: cells as processes, results as they come, tables that do not depend on when."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT

from sieverl.cli import main
from sieverl.errors import ExitCode
from sieverl.run_dir.lock import Lock

Capture = pytest.CaptureFixture[str]
# A cell that needs no model: its numbers come from its algorithm and seed.
CELL = """
import json, os, pathlib, shutil, sys, time, tomllib
file = pathlib.Path(sys.argv[1])
recipe = tomllib.loads(file.read_text())
run, name, seed = pathlib.Path(recipe["run_dir"]), recipe["algorithm"], recipe["seed"]
with pathlib.Path("started").open("a") as started:
    print(file.stem, file=started)
if name == "raft" and pathlib.Path("wait").exists():
    time.sleep(60)
if name == "raft" and pathlib.Path("fail").exists():
    sys.exit("no such thing")
if name == "raft" and seed == 1 and pathlib.Path("preempt").exists():
    sys.exit(75)
run.mkdir(parents=True)
shutil.copy(file, run / "recipe.toml")
last = -1 if pathlib.Path("early").exists() else 2 if name == "ppo" else 4
if pathlib.Path("late").exists():
    last = 4
if name == "raft" and pathlib.Path("cut").exists():
    last = 2
with (run / "metrics.jsonl").open("w") as rows:
    for step in range(last + 1):
        score = 0.25 + step * (0.1 + seed * 1e-3 if name == "raft" else 0.05) + seed * 0.01 + len(name) * seed * 1e-3
        row = {"step": step, "policy/entropy": 1 / (1 + step), "time/step": time.time() % 1}
        print(json.dumps(row | ({"eval/heldout/avg@4": score} if step % 2 == 0 else {})), file=rows)
if name == "ppo":
    print("alarm: nothing was kept")
    sys.exit(5)
if pathlib.Path("hang").exists():
    pathlib.Path("pid").write_text(str(os.getpid()))
    time.sleep(60)
"""
STUDY = """
about = "Three arms."
recipe = "demo"
seeds = [1, 2]
baseline = "grpo"
columns = ["eval/heldout/avg@4", { metric = "policy/entropy", steps = "all", label = "entropy" }]
command = ["{python}", "cell.py", "{recipe}"]
settings = { steps = 4, data = { options = { size = 40 } }, evaluate = { limit = 8, options = { size = 8 } } }

[arms]
grpo = { algorithm = "grpo" }
raft = { algorithm = "raft" }

[[claims]]
text = "RAFT ends higher."
compare = [{ arm = "raft", expect = "higher" }]
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cell.py").write_text(CELL)
    (tmp_path / "s.toml").write_text(STUDY)
    return tmp_path


def started(here: Path) -> list[str]:
    return sorted((here / "started").read_text().split())


def test_a_study_runs_each_cell_once_and_its_tables_do_not_change(here: Path, capsys: Capture) -> None:
    assert main(["study", "s.toml"]) == 0
    out = capsys.readouterr().out
    assert "4 of 4 cells to run, 1 at a time" in out
    assert "4/4 raft-2: 0.278 -> 0.686" in out
    assert "holds: RAFT ends higher." in out
    assert started(here) == ["grpo-1", "grpo-2", "raft-1", "raft-2"]
    output = here / "runs" / "s"
    table, numbers = (output / "table.md").read_bytes(), (output / "table.csv").read_bytes()
    assert b"| raft | 2 | 0.677 \xc2\xb1 0.114 | +0.206 \xc2\xb1 0.025 | 0.321 \xc2\xb1 0.000 |" in table
    assert b"| before training | 2 | 0.271 \xc2\xb1 0.089 |" in table
    assert b"**Holds:** RAFT ends higher." in table
    assert numbers.splitlines()[0].startswith(b"arm,metric,seeds,mean,low,high,difference_seeds")
    assert (output / "report.html").is_file()
    kept = (output / "results.jsonl").read_bytes()
    shutil.rmtree(output / "runs" / "raft-1")
    lines = [
        line for line in kept.splitlines(keepends=True) if json.loads(line)["run"] and b'"raft", "seed": 1' not in line
    ]
    assert len(lines) == 3
    (output / "results.jsonl").write_bytes(b"".join(lines))
    assert main(["study", "s.toml"]) == 0
    assert started(here) == ["grpo-1", "grpo-2", "raft-1", "raft-1", "raft-2"], "only what had no result"
    assert ((output / "table.md").read_bytes(), (output / "table.csv").read_bytes()) == (table, numbers)
    hashes = [
        [json.loads(line)["run"] for line in text.splitlines()]
        for text in (kept, (output / "results.jsonl").read_bytes())
    ]
    assert hashes[0] == hashes[1], "the same numbers, times apart"


def test_an_alarm_is_a_result_and_a_failure_is_none(here: Path, capsys: Capture) -> None:
    (here / "s.toml").write_text(STUDY.replace("[arms]", '[arms]\nppo = { algorithm = "ppo" }'))
    (here / "fail").touch()
    assert main(["study", "s.toml"]) == ExitCode.DATA
    captured = capsys.readouterr()
    assert "raft-1 failed, exit code 1: no such thing" in captured.out
    assert "1 of the cells failed, and no more of their arms were run; raft-1, exit code 1: no" in captured.err
    assert "| ppo | " in (here / "runs" / "s" / "table.md").read_text(), "with what there is"
    assert "logs/raft-1.log" in captured.err
    assert "ppo-2: 0.276, " in captured.out
    assert "(stopped at step 2: alarm: nothing was kept)" in captured.out
    (here / "fail").unlink()
    assert main(["study", "s.toml"]) == 0
    table = (here / "runs" / "s" / "table.md").read_text()
    assert "- ppo, seed 1: alarm: nothing was kept" in table
    assert "| ppo | 2 | none of 2 seeds | none of 2 seeds | none of 2 seeds |" in table
    assert started(here) == ["grpo-1", "grpo-2", "ppo-1", "ppo-2", "raft-1", "raft-1", "raft-2"]


def test_an_alarm_before_the_first_step_is_a_result_too(here: Path) -> None:
    (here / "s.toml").write_text(STUDY.replace('algorithm = "grpo"', 'algorithm = "ppo"'))
    (here / "early").touch()
    assert main(["study", "s.toml", "later.toml"]) == ExitCode.USAGE, "a file that is not there"
    (here / "later.toml").write_text("seeds = [1]\n[arms]\nraft = { algorithm = 'ppo' }\n")
    assert main(["study", "s.toml", "later.toml"]) == 0
    assert "- grpo, seed 1: alarm: nothing was kept" in (here / "runs" / "later" / "table.md").read_text()


def test_an_alarm_of_the_last_step_leaves_a_whole_run(here: Path) -> None:
    (here / "s.toml").write_text(STUDY.replace('"raft" }', '"ppo" }'))
    (here / "late").touch()
    assert main(["study", "s.toml"]) == 0
    table = (here / "runs" / "s" / "table.md").read_text()
    assert "Stopped by an alarm" not in table
    assert "| raft | 2 | 0.470 ± 0.083 | " in table


def test_a_run_that_is_cut_off_without_a_word_is_no_result(here: Path, capsys: Capture) -> None:
    """A pipe hides the exit code of what crashed, was preempted or stopped by an alarm."""
    (here / "s.toml").write_text(
        STUDY.replace('["{python}", "cell.py", "{recipe}"]', '["sh", "-c", "{python} cell.py {recipe} | cat"]')
    )
    (here / "cut").touch()
    assert main(["study", "s.toml"]) == ExitCode.DATA
    assert "raft-1 ended well and has 2 of 4 steps" in capsys.readouterr().err
    lines = (here / "runs" / "s" / "results.jsonl").read_text().splitlines()
    assert [json.loads(line)["arm"] for line in lines] == ["grpo"]


def test_a_run_that_is_there_twice_is_refused(here: Path, capsys: Capture) -> None:
    """Results of two machines in one file."""
    assert main(["study", "s.toml", "--output", "out"]) == 0
    file = here / "out" / "results.jsonl"
    file.write_text(file.read_text() + file.read_text().splitlines()[0] + "\n")
    assert main(["study", "s.toml", "--output", "out", "--table"]) == ExitCode.USAGE
    assert "out/results.jsonl has grpo, seed 1 twice; delete one" in capsys.readouterr().err


def test_a_run_that_was_begun_with_other_settings_is_not_gone_on_with(here: Path, capsys: Capture) -> None:
    (here / "preempt").touch()
    assert main(["study", "s.toml"]) == ExitCode.PREEMPTED
    (here / "runs" / "s" / "runs" / "raft-1").mkdir()  # where a real one has saved
    (here / "preempt").unlink()
    (here / "s.toml").write_text(
        STUDY.replace('"raft" }', '"raft", train = { lr = 0.5 } }').replace("seeds = [1, 2]", "seeds = [1]")
    )
    assert main(["study", "s.toml"]) == ExitCode.USAGE
    assert "runs/s/runs/raft-1 was begun with other settings" in capsys.readouterr().err
    assert started(here).count("raft-1") == 1
    (here / "runs" / "s" / "runs" / "raft-1").rmdir()
    assert main(["study", "s.toml"]) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="a process is told of its parent's end on Linux alone")
def test_a_study_that_is_killed_takes_its_cells_along(here: Path) -> None:
    (here / "hang").touch()
    study = subprocess.Popen([sys.executable, "-m", "sieverl", "study", "s.toml"], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not ((here / "pid").is_file() and (here / "pid").read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    process = Path("/proc", (here / "pid").read_text())
    assert process.exists()
    study.kill()
    study.wait()
    while process.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not process.exists()


def test_a_signal_stops_the_cells_and_the_same_command_goes_on(here: Path) -> None:
    (here / "wait").touch()
    command = [sys.executable, "-m", "sieverl", "study", "s.toml", "--processes", "2"]
    study = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not ((here / "started").is_file() and "raft-1" in started(here)) and time.monotonic() < deadline:
        time.sleep(0.05)
    study.send_signal(signal.SIGTERM)
    out, _ = study.communicate(timeout=60)
    assert study.returncode == ExitCode.PREEMPTED
    assert "the same command goes on" in out
    (here / "wait").unlink()
    shutil.rmtree(here / "runs" / "s" / "runs" / "raft-1", ignore_errors=True)
    assert main(["study", "s.toml"]) == 0
    assert len((here / "runs" / "s" / "results.jsonl").read_text().splitlines()) == 4


def test_results_of_other_settings_are_not_mixed_in(here: Path, capsys: Capture) -> None:
    assert main(["study", "s.toml", "--output", "out"]) == 0
    before = (here / "out" / "results.jsonl").read_bytes()
    (here / "s.toml").write_text(STUDY.replace('"raft" }', '"raft", train = { lr = 0.5 } }'))
    assert main(["study", "s.toml", "--output", "out"]) == ExitCode.USAGE
    assert "the settings of raft are not those that out/results.jsonl was made with" in capsys.readouterr().err
    assert (here / "out" / "results.jsonl").read_bytes() == before
    (here / "s.toml").write_text(STUDY.replace("seeds = [1, 2]", "seeds = [1, 2, 3]"))
    assert main(["study", "s.toml", "--output", "out"]) == 0, "more seeds are no other settings"
    assert started(here) == ["grpo-1", "grpo-2", "grpo-3", "raft-1", "raft-2", "raft-3"]


def test_results_of_cells_that_the_study_has_no_more_stay(here: Path) -> None:
    assert main(["study", "s.toml", "--output", "out"]) == 0
    before = (here / "out" / "results.jsonl").read_text().splitlines()
    (here / "later.toml").write_text("seeds = [9]\n")
    assert main(["study", "s.toml", "later.toml", "--output", "out"]) == 0
    after = (here / "out" / "results.jsonl").read_text().splitlines()
    assert len(after) == 6
    assert after[2:] == before
    assert "| grpo | 1 | " in (here / "out" / "table.md").read_text()


def test_a_column_whose_metric_was_not_kept_is_refused(here: Path, capsys: Capture) -> None:
    assert main(["study", "s.toml", "--output", "out"]) == 0
    (here / "s.toml").write_text(STUDY.replace('"policy/entropy"', '"policy/entrpy"'))
    for more in ([], ["--table"]):
        assert main(["study", "s.toml", "--output", "out", *more]) == ExitCode.USAGE
        said = capsys.readouterr().err
        assert "has no 'policy/entrpy' of grpo, seed 1" in said
        assert "Did you mean policy/entropy?" in said


def test_a_cell_that_somebody_else_interrupts_is_run_another_time(here: Path, capsys: Capture) -> None:
    """Its arm goes on, and the exit code says that not all is done."""
    (here / "preempt").touch()
    assert main(["study", "s.toml"]) == ExitCode.PREEMPTED
    assert "stopped with 3 of 4 cells; the same command goes on" in capsys.readouterr().out
    (here / "preempt").unlink()
    assert main(["study", "s.toml"]) == 0
    assert started(here) == ["grpo-1", "grpo-2", "raft-1", "raft-1", "raft-2"]


def test_a_metric_that_is_none_is_said_after_the_first_cell(here: Path, capsys: Capture) -> None:
    (here / "s.toml").write_text(STUDY.replace('"policy/entropy"', '"policy/entrpy"'))
    assert main(["study", "s.toml"]) == ExitCode.DATA
    assert "the runs have no metric 'policy/entrpy'. Did you mean policy/entropy?" in capsys.readouterr().err
    assert started(here) == ["grpo-1"]


def test_tables_alone_and_a_dry_run_run_nothing(here: Path, capsys: Capture) -> None:
    assert main(["study", "s.toml", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "raft: raft, 4 steps, seeds 1, 2" in out
    assert "4 cells, 0 with a result" in out
    assert not (here / "runs").exists()
    assert main(["study", "s.toml"]) == 0
    before = (here / "runs" / "s" / "table.md").read_bytes()
    (here / "runs" / "s" / "table.md").unlink()
    shutil.rmtree(here / "runs" / "s" / "runs")
    assert main(["study", "s.toml", "--table"]) == 0
    assert (here / "runs" / "s" / "table.md").read_bytes() == before, "results.jsonl is all that it needs"
    assert len(started(here)) == 4
    assert main(["study", "s.toml", "--dry-run"]) == 0
    assert "raft: raft, 4 steps, nothing left to run" in capsys.readouterr().out


def test_mistakes_are_said(here: Path, capsys: Capture) -> None:
    def said(*arguments: str) -> str:
        assert main(["study", *arguments]) in (ExitCode.USAGE, ExitCode.DATA)
        return capsys.readouterr().err

    assert "--processes 0: give 1 or more" in said("s.toml", "--processes", "0")
    (here / "out").mkdir()
    (lock := Lock()).take(here / "out")
    assert "leave its `with run:` first); wait for it, stop it, or use another --output" in said(
        "s.toml", "--output", "out"
    )
    lock.close()
    (here / "out" / "results.jsonl").write_text('{"arm": 3}\n')
    assert "out/results.jsonl, line 1 is no result of a study" in said("s.toml", "--output", "out")
    (here / "s.toml").write_text(STUDY.replace('algorithm = "raft"', 'algorithm = "rfat"'))
    assert "arms.raft: there is no algorithm 'rfat'" in said("s.toml", "--dry-run")


@pytest.mark.slow
def test_the_short_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    """Real runs: the same table again from a cell that is run anew, whatever else runs beside it."""
    monkeypatch.chdir(ROOT)
    command = ["study", "studies/short.toml", "--output", str(tmp_path)]
    assert main(command) == 0
    table, kept = (tmp_path / "table.md").read_bytes(), (tmp_path / "results.jsonl").read_text().splitlines()
    assert len(kept) == 6
    for line in map(json.loads, kept):
        score = line["metrics"]["eval/heldout/avg@4"][1]
        assert score[-1] > score[0] + 0.1, "it learns"
    (tmp_path / "results.jsonl").write_text("".join(f"{line}\n" for line in kept[1:]))
    shutil.rmtree(tmp_path / "runs" / json.loads(kept[0])["arm"].join(("", "-1")))
    assert main(command) == 0
    assert (tmp_path / "table.md").read_bytes() == table
    again = [json.loads(line)["run"] for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert again == [json.loads(line)["run"] for line in kept]
