"""A run that was cut off goes on with the same bits; a directory holds one run; damage is found."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Hashable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from runs import NOT_EVALUATED, comparable, newest_step, recipe, run_it

from sieverl.errors import CheckpointError, UsageError
from sieverl.run_dir import manifest
from sieverl.run_dir.rollouts import read_verdicts, rollout_path
from sieverl.training import checkpoint
from sieverl.training.loop import save, train
from sieverl.training.setup import prepare
from sieverl.types import Row
from sieverl.verify import Pool


class NeverAsked(Pool):
    """A verifier that fails the test when a response reaches it."""

    def submit(self, key: Hashable, response: str, row: Row) -> None:
        raise AssertionError(f"the verifier is asked again for {key}")


def test_a_resumed_run_gives_the_same_bits(finished: Path, tmp_path: Path) -> None:
    run_it(tmp_path / "part", steps=1)
    with (tmp_path / "part" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "cut off')
    run_it(tmp_path / "part", steps=3)
    assert comparable(tmp_path / "part") == comparable(finished)
    weights = [d / "checkpoints" / "step-3" / "model.safetensors" for d in (finished, tmp_path / "part")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_kill_9_and_the_same_command_give_the_same_bits(finished: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "killed"
    script = f"""
import sys; sys.path.insert(0, {str(ROOT / "tests")!r})
from pathlib import Path
from runs import run_it
run_it(Path({str(run_dir)!r}))
"""
    for _ in range(2):
        process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.DEVNULL)
        deadline = time.time() + 120
        while time.time() < deadline and process.poll() is None:
            if manifest.steps(run_dir / "checkpoints"):
                break
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
    run_it(run_dir)
    assert comparable(run_dir) == comparable(finished)


def test_damaged_checkpoints_are_passed_over_and_named(finished: Path, tmp_path: Path) -> None:
    run_it(tmp_path / "d", steps=2)
    directory = tmp_path / "d" / "checkpoints"
    weights = directory / "step-2" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert newest_step(tmp_path / "d") == 1
    run_it(tmp_path / "d", steps=3)
    assert comparable(tmp_path / "d") == comparable(finished)
    for step in (1, 2, 3):
        (directory / f"step-{step}" / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match="manifest"):
        manifest.newest(directory)
    with pytest.raises(CheckpointError, match="--resume must"):
        manifest.newest(tmp_path / "none", must=True)


def test_another_recipe_in_the_same_directory_is_refused(finished: Path) -> None:
    with pytest.raises(UsageError, match=r"train\.lr = 0\.0001, not 0\.1"):
        prepare(recipe(finished, train__lr=0.1), say=lambda t: None)


def test_resume_never_sets_the_old_run_aside(tmp_path: Path) -> None:
    run_it(tmp_path / "r", steps=1)
    before = (tmp_path / "r" / "metrics.jsonl").read_text()
    run_it(tmp_path / "r", resume="never", steps=1, seed=5)
    assert (tmp_path / "r.old-1" / "metrics.jsonl").read_text() == before
    assert comparable(tmp_path / "r") != comparable(tmp_path / "r.old-1")


def test_verdicts_of_a_replayed_step_are_read_back(tmp_path: Path) -> None:
    run_it(tmp_path / "v", steps=1, **NOT_EVALUATED)
    known = read_verdicts(tmp_path / "v", 1)
    assert len(known) == 16
    run = prepare(recipe(tmp_path / "w", steps=1, **NOT_EVALUATED), say=lambda t: None)
    os.makedirs(tmp_path / "w" / "rollouts")
    os.link(rollout_path(tmp_path / "v", 1), rollout_path(tmp_path / "w", 1))
    with run, NeverAsked({"name": "math"}) as pool:
        run.environment = replace(run.environment, pool=pool)
        train(run)
    assert read_verdicts(tmp_path / "w", 1) == known


def test_lora_trains_and_resumes_to_the_same_bits(tmp_path: Path) -> None:
    options: dict[str, Any] = {"dtype": "float32", "model__lora__rank": 2}
    run_it(tmp_path / "whole", steps=2, **options)
    run_it(tmp_path / "part", steps=1, **options)
    run_it(tmp_path / "part", steps=2, **options)
    assert comparable(tmp_path / "whole") == comparable(tmp_path / "part")
    assert (tmp_path / "whole" / "checkpoints" / "latest" / "adapter_config.json").exists()


def test_a_killed_save_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_it(tmp_path / "k", steps=1, checkpoint__background=False)
    monkeypatch.setattr(checkpoint, "sync", lambda path: 1 / 0)  # the disk is full
    run.state.step = 2
    with pytest.raises(ZeroDivisionError):
        save(run)
    assert newest_step(tmp_path / "k") == 1
    assert json.loads((tmp_path / "k" / "checkpoints" / "latest" / "training.json").read_text())["step"] == 1
