"""All ranks of a run must see one run directory; else each would resume, or start, a run of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from sieverl.distributed.world import World
from sieverl.training.shared import check_shared

SCRIPT = str(ROOT / "tests" / "training" / "two_folders.py")


def seen(folder: Path, *where: str) -> list[str]:
    """What two ranks find."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", SCRIPT, str(folder)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, *where], capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return [(folder / f"{rank}.txt").read_text() for rank in (0, 1)]


def test_one_process_has_nothing_to_check(tmp_path: Path) -> None:
    check_shared(tmp_path / "run", World())
    assert not list(tmp_path.iterdir())


def test_ranks_with_one_directory_go_on_and_leave_nothing_there(tmp_path: Path) -> None:
    assert seen(tmp_path, "runs/a", "runs/a") == ["seen", "seen"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.prompts.txt", "0.txt", "1.prompts.txt", "1.txt"]
    said = [(tmp_path / f"{rank}.prompts.txt").read_text() for rank in (0, 1)]
    assert said[0] == said[1]
    assert said[0].startswith("rank 1 (")
    assert "read other prompts than rank 0" in said[0]


@pytest.mark.parametrize("made", [("one",), ("one", "two")], ids=["one there", "both there"])
def test_ranks_with_two_directories_are_told_so_on_every_rank(tmp_path: Path, made: tuple[str, ...]) -> None:
    for name in made:
        (tmp_path / name).mkdir()
    found = seen(tmp_path, "one/run", "two/run")
    assert found[0] == found[1]
    assert found[0].startswith("rank 1 (")
    assert found[0].count("rank 1") == 1
    assert f"{tmp_path}/one/run" in found[0]
    assert "--run-dir /SHARED/DIR" in found[0]
