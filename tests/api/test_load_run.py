"""Runs as data frames and figures, and evaluation from Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

import sieverl
from sieverl.cli import main
from sieverl.errors import DataError, UsageError


@pytest.fixture
def run(work: Path) -> sieverl.TrainedRun:
    """A run of two steps."""
    assert main(["train", "r.toml", "--run-dir", "runs/a", "--steps", "2", "--display", "none"]) == 0
    return sieverl.load_run("runs/a")


def test_metrics_and_responses_are_frames(run: sieverl.TrainedRun) -> None:
    assert list(run.metrics.index) == [0, 1, 2]
    assert run.metrics["reward/accuracy"].between(0, 1).sum() == 2
    first = run.responses(1)
    assert len(first) == 4
    assert {"prompt", "response", "reward", "kept", "advantage"} <= set(first.columns)
    assert run.recipe["steps"] == 2
    assert run.checkpoint() == run.checkpoint(2)
    assert repr(run) == "TrainedRun('runs/a', step 2 of 2)"


def test_figures_and_what_a_notebook_shows(run: sieverl.TrainedRun) -> None:
    assert isinstance(run.figure(), Figure)
    chart = run.figure("reward/mean", "policy/entropy")
    assert [line.get_label() for line in chart.axes[0].lines] == ["reward/mean", "policy/entropy"]
    html = run._repr_html_()
    assert html.count("<svg") == 1
    assert "reward/accuracy" in html
    assert "<script" not in html


def test_what_is_not_there_is_named(run: sieverl.TrainedRun) -> None:
    with pytest.raises(DataError, match=r"Did you mean runs/a\?"):
        sieverl.load_run("runs/b")
    with pytest.raises(DataError, match="no responses of step 7; it has those of 1 to 2"):
        run.responses(7)
    with pytest.raises(DataError, match=r"no metric 'reward/maen'\. Did you mean reward/mean\?"):
        run.figure("reward/maen")
    with pytest.raises(DataError, match="no checkpoint of step 1"):
        run.checkpoint(1)


def test_a_run_that_has_just_begun(work: Path) -> None:
    (work / "new").mkdir()
    (work / "new" / "recipe.toml").write_text("steps = 3\n")
    run = sieverl.load_run("new")
    assert run.metrics.empty
    assert isinstance(run.figure(), Figure)
    assert "step 0 of 3" in run._repr_html_()


def test_evaluate_is_the_command(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options: dict[str, Any] = {"k": 2, "max_tokens": 4, "limit": 8}
    found = sieverl.evaluate("base", "data.jsonl", **options, verifier="number", display=False)
    assert capsys.readouterr().out == ""
    command = ["eval", "--model", "base", "--benchmark", "data.jsonl", "--verifier", "number", "-k", "2"]
    assert main([*command, "--max-tokens", "4", "--limit", "8", "--output", "e.json"]) == 0
    import json

    assert json.loads((work / "e.json").read_text())["scores"] == found["scores"]
    before = sorted(work.rglob("*"))
    own = sieverl.evaluate(
        "base", "data.jsonl", **options, verifier=lambda response, row: 0.25 * len(response), display=False
    )
    assert own["scores"]["avg@2"]["value"] <= 1
    assert sorted(work.rglob("*")) == before


def test_options_that_cannot_be(work: Path) -> None:
    with pytest.raises(UsageError, match=r"no option 'max_tokns'. Did you mean max_tokens\?"):
        sieverl.evaluate("base", "demo", max_tokns=3)
    with pytest.raises(UsageError, match="-k is 0"):
        sieverl.evaluate("base", "demo", k=0)
