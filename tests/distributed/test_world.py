"""Collectives of a world of one, and of two gloo processes under torchrun (`two_ranks.py`)."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT

from sieverl.distributed.world import World, init_distributed
from sieverl.errors import UsageError


def test_one_rank_is_a_world_of_its_own() -> None:
    world = World()
    tensor = torch.tensor([1.0, 2.0])
    assert world.all_reduce(tensor) is tensor
    assert tensor.tolist() == [1.0, 2.0]
    assert world.all_gather({"a": 1}) == [{"a": 1}]
    assert world.sum_floats([0.1, 2]) == [0.1, 2]
    world.barrier()


@pytest.mark.parametrize("environment", [{}, {"RANK": "0", "WORLD_SIZE": "1"}])
def test_without_torchrun_or_with_one_process_nothing_is_initialised(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]
) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert init_distributed() == World(0, 1)
    assert not torch.distributed.is_initialized()


def test_a_port_that_is_taken_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(UsageError, match=rf"127.0.0.1:{port}.*torchrun --master-port N") as caught:
            init_distributed()
    assert "rank 0 of 2" in str(caught.value)
    assert not torch.distributed.is_initialized()


def test_two_processes(tmp_path: Path) -> None:
    """Rank 0 has (1, 2), rank 1 has (10, 20)."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    script = str(ROOT / "tests" / "distributed" / "two_ranks.py")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [*command, script, str(tmp_path)], capture_output=True, text=True, env=environment, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for rank in (0, 1):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert found == {
            "rank": rank,
            "size": 2,
            "all_reduce": [11.0, 22.0],
            "all_gather": [{"rank": 0, "values": []}, {"rank": 1, "values": [1]}],
            "sum_floats": [3.0 + 1e-12, 0.0],
            "after_barrier": True,
        }
