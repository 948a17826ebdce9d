"""The tools beside the package."""

from __future__ import annotations

import importlib
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import ROOT

from sieverl.run_dir.metrics import MetricsLog
from sieverl.run_dir.rollouts import RolloutRow, write_rollouts

ROW = RolloutRow(
    step=1, group=0, sample=0, prompt_id=7, prompt="2+3", answer="5", response="2+3=5", reward=1.0, correct=True,
    status="correct", length=5, truncated=False, logp=-1.0,
)  # fmt: skip


def run_dir(folder: Path, second: str) -> Path:
    """Two steps of two responses; the last one is `second`."""
    folder.mkdir()
    for step in (1, 2):
        rows = [replace(ROW, step=step), replace(ROW, step=step, sample=1, response=second if step == 2 else "five")]
        write_rollouts(folder, step, rows)
        MetricsLog(folder / "metrics.jsonl").append({"step": step, "train/loss": 0.5 + len(second) * 1e-7})
    return folder


def test_the_first_difference_of_two_runs(tmp_path: Path) -> None:
    folders = [run_dir(tmp_path / name, said) for name, said in (("a", "2+3=5"), ("b", "2+3=6!"), ("c", "2+3=5"))]

    def said(*chosen: Path) -> str:
        command = [sys.executable, str(ROOT / "tools" / "first_difference.py"), *map(str, chosen)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    found = said(*folders[:2])
    assert "step 1: losses 0.5000005 and 0.5000006, 1.0e-07 apart" in found
    assert "the first response that differs: step 2, prompt '2+3', sample 1, character 4\n'2+3=5'\n'2+3=6!'" in found
    assert said(folders[0], folders[2]).endswith("all responses are the same\n")


def test_notebooks_of_the_hasty_pupil(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    tool = importlib.import_module("make_hasty_model")
    assert tool.textbook("2+3*4", random.Random(0)) == "3*4=12\n2+12=14\n\\boxed{14}"
    pages = [tool.hasty("2+3*4", random.Random(seed)) for seed in range(2000)]
    lines = [page.split("\n") for page in pages]
    blurted = sum(len(page) == 1 for page in lines) / len(pages)
    early = sum(len(page) == 2 for page in lines) / len(pages)
    unread = sum(page[0].startswith("2+3=") for page in lines) / len(pages)
    worked = pages.count(tool.textbook("2+3*4", random.Random(0))) / len(pages)
    shares = tool.BLURTS, tool.STOPS_EARLY, tool.LEFT_TO_RIGHT
    assert all(abs(a - b) < 0.04 for a, b in zip((blurted, early, unread), shares, strict=True))
    assert abs(worked - (1 - sum(shares)) * (1 - tool.SLIPS) ** 2) < 0.04
    assert {int(page[0][7:-1]) - 14 for page in lines if len(page) == 1} == set(tool.OFF_BY)
