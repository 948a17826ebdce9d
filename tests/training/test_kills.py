"""Runs that are killed at random instants end as undisturbed ones; `make test-faults` kills 200."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT

HERE = ROOT / "tests" / "training"


def strike(kills: int, seed: int) -> dict[str, object]:
    command = [sys.executable, str(HERE / "kills.py"), "--kills", str(kills), "--seed", str(seed)]
    path = os.pathsep.join([str(ROOT / "tests"), *sys.path])
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, text=True, capture_output=True, timeout=900, check=False
    )
    assert done.stdout, done.stderr
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_three_kills() -> None:
    found = strike(3, seed=1)
    assert (found["kills"], found["faults"]) == (3, [])


@pytest.mark.slow
def test_thirty_kills() -> None:
    found = strike(30, seed=2)
    assert (found["kills"], found["faults"]) == (30, [])
    assert isinstance(found["phases"], dict)
    assert len(found["phases"]) >= 6, found["phases"]
