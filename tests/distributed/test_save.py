"""A rank that cannot write: all leave, none waits in a collective, and the checkpoint before it stays."""

from __future__ import annotations

from pathlib import Path

import pytest
from launch import launch
from runs import newest_step


@pytest.mark.parametrize("rank", [0, 1])
def test_one_rank_raises_inside_a_save_and_all_leave(tmp_path: Path, rank: int) -> None:
    errors = launch("save_fails.py", 2, tmp_path, rank, fails=True)
    assert "cannot write the checkpoint of step 2" in errors
    assert "No space left on device" in errors
    assert newest_step(tmp_path / "r") == 1
