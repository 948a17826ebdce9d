"""Saving in the background: the run goes on meanwhile, and what is written is the same."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any

import pytest
from disk import contents
from runs import NOT_EVALUATED, comparable, recipe, run_it
from safetensors.torch import load

from sieverl import files
from sieverl.distributed.world import World
from sieverl.run_dir.metrics import MetricsLog
from sieverl.training.loop import train
from sieverl.training.saver import Saver
from sieverl.training.setup import prepare

RUN: dict[str, Any] = {**NOT_EVALUATED, "steps": 2, "rollout__prompts": 2}


@pytest.mark.parametrize(
    "options",
    [
        {"checkpoint__format": "full"},
        {"checkpoint__format": "sharded"},
        {"checkpoint__format": "full", "model__lora__rank": 2, "dtype": "float32"},
        {"checkpoint__format": "sharded", "model__lora__rank": 2, "dtype": "float32"},
        {"algorithm": "ppo"},
        {"rollout__staleness": 1},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_the_same_checkpoints(tmp_path: Path, options: dict[str, Any]) -> None:
    for background in (False, True):
        run_it(tmp_path / f"{background}", **{**RUN, **options, "checkpoint__background": background})
    now, meanwhile = (meaning(tmp_path / name / "checkpoints") for name in ("False", "True"))
    assert {name.split("/")[0] for name in now} == {"step-1", "step-2"}
    assert now == meanwhile


def meaning(folder: Path) -> dict[str, Any]:
    """The files of checkpoints by their names: without times, and without the order of a header's comments."""
    found: dict[str, Any] = {}
    for name, content in contents(folder).items():
        if name.endswith(".safetensors"):
            found[name] = {key: (x.dtype, x.shape, x.numpy().tobytes()) for key, x in load(content).items()}
        elif name.endswith("training.json"):
            found[name] = re.sub(rb'"seconds": .*', b"", content)
        elif not name.endswith("manifest.json"):
            found[name] = content
    return found


def test_the_run_goes_on_while_a_slow_disk_writes(tmp_path: Path) -> None:
    """The checkpoint of step 1 is not begun before step 2 is logged, and the one of step 2 waits for it."""
    run_it(tmp_path / "r0", **RUN)
    log, seen = MetricsLog(tmp_path / "r" / "metrics.jsonl"), list[str]()
    logged = threading.Event()

    def slow(operation: str, paths: tuple[Path, ...]) -> None:
        name = paths[0].name
        if operation == "append" and len(log.rows()) == 2:  # the row of step 2 comes
            logged.set()
        if operation == "fill" and name == ".step-1.tmp":
            assert threading.current_thread() is not threading.main_thread()
            assert logged.wait(60)
        if operation == "move":
            seen.append(paths[1].name)

    files.watchers.append(slow)
    try:
        run_it(tmp_path / "r", **RUN)
    finally:
        files.watchers.clear()
    assert [name for name in seen if name.startswith("step-") and "." not in name] == ["step-1", "step-2"]
    assert comparable(tmp_path / "r") == comparable(tmp_path / "r0")
    assert meaning(tmp_path / "r" / "checkpoints") == meaning(tmp_path / "r0" / "checkpoints")


def test_the_lock_is_held_until_all_is_written(tmp_path: Path) -> None:
    begun, go_on = threading.Event(), threading.Event()
    held: list[bool] = []

    def slow() -> None:
        begun.set()
        go_on.wait(60)
        held.append(run.lock.held)

    run = prepare(recipe(tmp_path / "r", **RUN), say=lambda text: None)
    with run:
        train(run)
        run.saver.start(slow)
        assert begun.wait(60)
        go_on.set()
    assert held == [True]
    assert not run.lock.held


def test_an_error_comes_once_and_ends_nothing_else() -> None:
    saver = Saver(World(), background=True)

    def full() -> None:
        raise OSError(28, "No space left on device")

    saver.start(full)
    with pytest.raises(OSError, match="No space"):
        saver.start(lambda: None)
    done: list[int] = []
    saver.start(lambda: done.append(1))
    saver.wait()
    saver.check()
    saver.start(full)
    saver.close()
    assert done == [1]
