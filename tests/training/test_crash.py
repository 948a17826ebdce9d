"""A power cut at any operation of a run leaves a whole checkpoint and every row up to it; an error leaves as much."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from disk import Disk, contents, state_of
from runs import NOT_EVALUATED, comparable, recipe, run_it

from sieverl import files
from sieverl.errors import StorageError
from sieverl.run_dir import manifest
from sieverl.run_dir.manifest import step_of
from sieverl.training.loop import train
from sieverl.training.setup import prepare

RUN: dict[str, Any] = {**NOT_EVALUATED, "steps": 3, "checkpoint__keep": 1, "rollout__prompts": 2}
RUN["checkpoint__background"] = False  # one operation after the other
IN_PARTS: dict[str, Any] = {
    "algorithm": "ppo",
    "checkpoint__format": "sharded",
    "checkpoint__keep_every": 2,
    "rollout__staleness": 1,
}
VARIANTS = [{}, pytest.param(IN_PARTS, marks=pytest.mark.slow)]
HOWS = ("kill", "synced", "names", "any", "any", "any")


class Expected:
    """The files of an undisturbed run, and what may be missing of them."""

    def __init__(self, run_dir: Path) -> None:
        self.checkpoints: dict[int, Mapping[str, bytes]] = {}
        self.run_dir = run_dir

    def watch(self, operation: str, paths: tuple[Path, ...]) -> None:
        """Keep each checkpoint as it is moved to its place."""
        if operation == "move" and paths[1].parent.name == "checkpoints" and paths[1].name.startswith(manifest.PREFIX):
            self.checkpoints[int(paths[1].name.removeprefix(manifest.PREFIX))] = contents(paths[0])

    def check(self, left: Path, committed: int) -> int | None:
        """The step of the checkpoint in what a cut left; it is whole, not older than the last one committed, and the
        rows and responses up to it are there, each once."""
        found = manifest.newest(left / "checkpoints")
        if found is None:
            assert committed == 0
            return None
        step = step_of(found)
        assert step >= committed
        assert contents(found) == self.checkpoints[step]
        latest = left / "checkpoints" / "latest"
        assert not latest.is_symlink() or (latest / manifest.MANIFEST).is_file(), "latest is never ahead"
        rows = [row for row in comparable(left) if row["step"] <= step]
        assert rows == [row for row in comparable(self.run_dir) if row["step"] <= step]
        for number in range(1, step + 1):
            name = f"rollouts/step-{number:06d}.parquet"
            assert (left / name).read_bytes() == (self.run_dir / name).read_bytes()
        return step


def follow(run_dir: Path, store: Path, at_each: Any, **changes: Any) -> None:
    """Run, and call `at_each(disk)` before every operation and at the end."""
    disk, operations = Disk(run_dir.parent, store), list[str]()

    def watch(operation: str, paths: tuple[Path, ...]) -> None:
        if disk.inside(paths[0]):
            disk.settle()
            at_each(disk, operations[-1] if operations else "start")

    files.watchers.append(watch)
    try:
        with disk.following(operations):
            run_it(run_dir, **{**RUN, **changes})
            disk.settle()
            at_each(disk, "end")
    finally:
        files.watchers.remove(watch)


@pytest.mark.parametrize("variant", VARIANTS, ids=["full", "sharded and ahead"])
def test_a_power_cut_at_any_operation(tmp_path: Path, variant: dict[str, Any]) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    expected, cuts = Expected(runs / "r"), list[tuple[Path, int, str]]()
    files.watchers.append(expected.watch)

    def cut(disk: Disk, last: str) -> None:
        committed = len(expected.checkpoints) - 1 if last == "move" else len(expected.checkpoints)
        for number, how in enumerate(HOWS):
            left = tmp_path / "cuts" / f"{len(cuts)}"
            left.parent.mkdir(exist_ok=True)
            disk.left(left, how, seed=1000 * len(cuts) + number)
            cuts.append((left / "r", max(0, committed - 1), how))

    try:
        follow(runs / "r", tmp_path / "store", cut, **variant)
    finally:
        files.watchers.remove(expected.watch)
    steps = [expected.check(left, committed) for left, committed, _ in cuts]
    assert {None, 1, 2, 3} == set(steps)
    assert len(cuts) > 200, "every operation, six ways"
    assert expected.check(runs / "r", 3) == 3
    for left in {step: left for step, (left, _, how) in zip(steps, cuts, strict=True) if how == "any"}.values():
        left.mkdir(exist_ok=True)
        run_it(left, **{**RUN, **variant})
        assert comparable(left) == comparable(runs / "r"), "the same run from what was left"
        assert state_of(contents(left / "checkpoints" / "latest")) == state_of(expected.checkpoints[3])


MEANWHILE = {"checkpoint__background": True}
ERRORS = [
    (errno.ENOSPC, {}),
    (errno.EROFS, {}),
    (errno.EIO, MEANWHILE),
    pytest.param(errno.ENOSPC, MEANWHILE, marks=pytest.mark.slow),
    pytest.param(errno.ENOSPC, IN_PARTS, marks=pytest.mark.faults),
]


@pytest.mark.parametrize(("error", "variant"), ERRORS)
def test_an_error_of_the_disk_at_any_operation_of_a_save(tmp_path: Path, error: int, variant: dict[str, Any]) -> None:
    """The message says what, the checkpoint before it stays, and the run goes on from there."""
    options = {**RUN, **variant}
    whole = run_it(tmp_path / "whole", **options)
    seen = list[str]()
    files.watchers.append(lambda operation, paths: seen.append(operation))
    run_it(tmp_path / "count", **{**options, "steps": 1})
    files.watchers.clear()
    only_first_checkpoint(tmp_path / "r", **options)
    for number in range(0, len(seen), 1 if (error, variant) == (errno.ENOSPC, {}) else 4):
        run_dir = tmp_path / f"r{number}"
        shutil.copytree(tmp_path / "r", run_dir, symlinks=True)
        run = prepare(recipe(run_dir, **options), say=lambda text: None)
        left = number

        def fail(operation: str, paths: tuple[Path, ...]) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise OSError(error, "of the test")

        files.watchers.append(fail)
        try:
            with run, pytest.raises(StorageError, match=r"cannot write .*of the test"):
                train(run)
        except BaseException as missed:
            if "DID NOT RAISE" not in str(missed):
                raise
            break  # the run has fewer operations
        finally:
            files.watchers.clear()
        found = manifest.newest(run_dir / "checkpoints")
        assert found is not None
        assert step_of(found) in (1, 2, 3)
    assert number > 10
    run_it(run_dir, **options)
    assert comparable(run_dir) == comparable(whole.run_dir)


def only_first_checkpoint(run_dir: Path, **options: Any) -> None:
    """A run whose later checkpoints were lost. One that ended after a step would have sampled less far ahead."""
    run_it(run_dir, **{**options, "checkpoint__keep": 9})
    checkpoints = run_dir / "checkpoints"
    for step in (2, 3):
        shutil.rmtree(checkpoints / f"step-{step}")
    (checkpoints / "latest").unlink()
    (checkpoints / "latest").symlink_to("step-1")


def test_i8_garbage_in_metrics_loses_no_other_row(tmp_path: Path) -> None:
    run_it(tmp_path / "r", **RUN)
    log = tmp_path / "r" / "metrics.jsonl"
    lines = log.read_bytes().split(b"\n")
    log.write_bytes(b"\n".join([*lines[:1], b"\0\0\xff garbage", *lines[1:]]))
    said: list[str] = []
    run = prepare(recipe(tmp_path / "r", **{**RUN, "steps": 4}), say=said.append)
    with run:
        train(run)
    assert [row["step"] for row in comparable(tmp_path / "r")] == [0, 1, 2, 3, 4]
    assert any("line 2 is damaged" in text for text in said)
    assert b"garbage" in (tmp_path / "r" / "metrics.damaged.jsonl").read_bytes()
    assert json.loads(log.read_text().splitlines()[2])["step"] == 2


def test_what_a_kill_left_of_the_last_save_is_finished_by_the_next_start(tmp_path: Path) -> None:
    """`latest` not yet moved, old checkpoints half deleted, one that was being replaced: found by killing."""
    run_it(tmp_path / "r", **{**RUN, "checkpoint__keep": 9})
    directory = tmp_path / "r" / "checkpoints"
    (directory / "latest").unlink()
    (directory / "latest").symlink_to("step-2")
    (directory / "step-1").rename(directory / ".step-1.gone")
    (directory / "step-3").rename(directory / ".step-3.old")
    shutil.copytree(directory / "step-2", directory / ".step-4.tmp")
    run_it(tmp_path / "r", **{**RUN, "checkpoint__keep": 9})
    assert sorted(path.name for path in directory.iterdir()) == ["latest", "step-2", "step-3"]
    assert (directory / "latest").resolve().name == "step-3"
