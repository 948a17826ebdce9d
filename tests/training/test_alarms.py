"""When a run stops itself: nothing kept, stale weights, NaN."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console
from runs import NOT_EVALUATED, fake_run, recipe
from safetensors.torch import load_file

from sieverl.display.console import Progress, summary
from sieverl.display.plot import curve
from sieverl.engines.fake import FakeEngine
from sieverl.errors import Alarm
from sieverl.recipe import build
from sieverl.run_dir import manifest
from sieverl.run_dir.rollouts import rollout_path
from sieverl.training.loop import train
from sieverl.training.setup import prepare
from sieverl.training.state import Run, State
from sieverl.types import Metrics, Note


def test_nothing_kept_makes_no_update_and_then_an_alarm(tmp_path: Path) -> None:
    run = fake_run(tmp_path, [r"\boxed{x}"], steps=9, alarms__empty_steps=3, alarms__engine_mismatch=0)
    before = [p.clone() for p in run.policy.model.parameters()]
    with run, pytest.raises(Alarm, match="nothing was kept in 3 steps"):
        train(run)
    rows = run.metrics.rows()
    assert [r["train/updates"] for r in rows[1:]] == [0, 0, 0]
    assert all(r["select/all_wrong"] == 1 and "policy/engine_mismatch" in r for r in rows[1:])
    assert all(torch.equal(a, b) for a, b in zip(before, run.policy.model.parameters(), strict=True))
    assert isinstance(run.engine, FakeEngine)
    assert run.engine.version == 2, "that of the weights which sampled the last step"


def test_stale_weights_raise_the_alarm(tmp_path: Path) -> None:
    run = fake_run(tmp_path, [r"\boxed{1}"], steps=2)
    with run, pytest.raises(Alarm, match="other weights"):
        train(run)


def test_responses_that_are_all_cut_off_stop_the_run(tmp_path: Path) -> None:
    limits = {"alarms__truncated__steps": 2, "alarms__engine_mismatch": 0, "rollout__max_tokens": 2}
    run = fake_run(tmp_path, [r"\boxed{1}"], steps=9, **limits)
    stopped = r"cut off at 2 tokens.*Raise rollout\.max_tokens.*alarms\.truncated\.do = \"warn\" to go on"
    with run, pytest.raises(Alarm, match=stopped):
        train(run)
    assert run.state.step == 2
    newest = manifest.newest(run.run_dir / "checkpoints")
    assert newest is not None
    assert State.of(manifest.load_state(newest), 2).watched.recent["truncated"] == [1, 1], "that of the last step, too"


def test_a_warning_is_a_note_on_the_step_in_which_it_begins(tmp_path: Path) -> None:
    said: dict[int, list[str]] = {}
    quiet = {"alarms__empty_steps": 0, "alarms__engine_mismatch": 0}
    run = fake_run(tmp_path, [r"\boxed{x}"], steps=5, **quiet, alarms__reward_zero__steps=2)

    def on_row(row: Metrics, notes: Sequence[Note]) -> None:
        said[row["step"]] = [note.text for note in notes if note.text.startswith("alarm ")]

    with run:
        train(run, on_row)
    assert [len(said[step]) for step in range(6)] == [0, 0, 1, 0, 0, 0]
    assert said[2][0].startswith("alarm reward_zero: no response was correct")


# Algorithms that pass their trial on a toy batch, where responses have at most 6 tokens, and break in the run.
BREAKS = """
import numpy as np, torch
from sieverl import Algorithm

def nan_advantage(responses, shaped_R):
    broken_R = (np.arange(len(responses)) == 1) & (responses.max_tokens > 6)
    return np.where(broken_R, np.nan, shaped_R)

def infinite_loss(tokens, ratio_T):
    return ratio_T * tokens.advantage_T * (float("inf") if tokens.denominator.max_tokens > 6 else 1.0)

def nan_gradient(tokens, ratio_T):
    gap_T = tokens.logp_T - tokens.logp_T.detach()
    return (gap_T.abs().sqrt() if tokens.denominator.max_tokens > 6 else gap_T) * ratio_T

advantages = Algorithm(advantage=nan_advantage)
losses = Algorithm(objective=infinite_loss)
gradients = Algorithm(objective=nan_gradient)
"""


def broken_run(folder: Path, algorithm: str, **overrides: Any) -> tuple[Run, Progress, io.StringIO]:
    """A run of one of the algorithms above, its console, and what the console has said."""
    (folder / "mine.py").write_text(BREAKS)
    settings = recipe(folder / "n", algorithm=f"{folder}/mine.py:{algorithm}", **NOT_EVALUATED, **overrides)
    run = prepare(settings, say=lambda t: None)
    said = io.StringIO()
    return run, Progress(run.recipe, 0, False, Console(file=said, width=200)), said


def check_inspection(run: Run, said: str) -> None:
    """Three of the four batches are kept, each named in its note, with the responses that the learner computed."""
    folder = run.run_dir / "inspect"
    names = [f"step-{step:06d}.safetensors" for step in (1, 2, 3)]
    assert sorted(path.name for path in folder.iterdir()) == sorted([*names, *(Path(n).stem + ".json" for n in names)])
    assert [name for name in names if f"the batch is in inspect/{name}" in said] == names
    about, tensors = json.loads((folder / "step-000002.json").read_text()), load_file(folder / names[1])
    logged = pq.read_table(rollout_path(run.run_dir, 2)).to_pylist()
    kept = [(r["group"], r["sample"], r["prompt_id"], r["length"]) for r in logged if r["kept"]]
    assert [(r["group"], r["sample"], r["prompt_id"], r["length"]) for r in about["responses"]] == kept
    assert about["step"] == 2
    assert about["nonfinite"] == run.nonfinite, "the same each time"
    assert len(tensors["tokens"]) == len(tensors["logp"]) == sum(r["length"] for r in about["responses"])
    np.testing.assert_allclose(tensors["logp"], tensors["engine_logp"], atol=1e-9)
    assert len(tensors["advantage"]) == len(kept)
    assert bool(tensors["advantage"].isnan().any()) == ("advantages" in run.nonfinite)


@pytest.mark.parametrize("named", ["advantages", "losses", "gradients"])
def test_S5_nan_is_said_at_once_and_stops_the_run(tmp_path: Path, named: str) -> None:
    run, progress, said = broken_run(tmp_path, named, steps=99, alarms__nonfinite_steps=4)
    before = [p.clone() for p in run.policy.model.parameters()]
    with run, pytest.raises(Alarm, match=rf"4 steps in a row \(now in .*{named}.*nonfinite_steps = 0"):
        train(run, progress)
    assert all(torch.equal(a, b) for a, b in zip(before, run.policy.model.parameters(), strict=True))
    rows = run.metrics.rows()[1:]
    assert len(rows) == 4, "one more than by default"
    assert build({}).alarms.nonfinite_steps == 3
    assert all(row[f"nonfinite/{named}"] > 0 and row["nonfinite/gradients"] == 1 for row in rows)
    assert said.getvalue().count("NaN or infinity") == 4
    text = (run.run_dir / "metrics.jsonl").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    assert all((row["train/loss"] is None) == (named != "gradients") for row in rows)
    check_inspection(run, " ".join(said.getvalue().split()))
    summary(run.run_dir, progress.console)
    curve(run.run_dir)


def test_S5_a_run_goes_on_where_it_is_told_to_and_counts_in_a_row_over_a_resume(tmp_path: Path) -> None:
    run, progress, said = broken_run(tmp_path, "advantages", steps=4, alarms__nonfinite_steps=0)
    with run:
        train(run, progress)
    assert said.getvalue().count("NaN or infinity") == 4
    newest = manifest.newest(run.run_dir / "checkpoints")
    assert newest is not None
    assert State.of(manifest.load_state(newest), 4).nonfinite_steps == 4
    old = {"step": 1, "cursor": {"epoch": 0, "index": 0}, "empty_steps": 0, "graded": False}
    assert State.of(old, 1).nonfinite_steps == 0, "a checkpoint from before there was this count"
