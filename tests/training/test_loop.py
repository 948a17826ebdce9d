"""The loop around a real (tiny, random) model and around a fake engine: files, resume, alarms, selection."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from conftest import BASE, ROOT
from rich.console import Console
from runs import comparable, fake_run, recipe, run_it

from sieverl.algorithms import ALGORITHMS, get_algorithm
from sieverl.display.console import Progress, summary
from sieverl.display.plot import curve
from sieverl.errors import Alarm, CheckpointError, DataError, UsageError
from sieverl.learner.batches import pack
from sieverl.recipe import build
from sieverl.rollout.collect import Batch
from sieverl.run_dir import manifest
from sieverl.run_dir.metrics import MetricsLog
from sieverl.run_dir.rollouts import read_verdicts, rollout_path
from sieverl.training import checkpoint
from sieverl.training.loop import assign_credit, collect, save, train
from sieverl.training.setup import prepare
from sieverl.training.signals import Preempted
from sieverl.training.state import State
from sieverl.types import Responses


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("runs") / "one"
    run_it(run_dir)
    return run_dir


def test_a_run_directory_holds_what_it_promises(finished):
    rows = MetricsLog(finished / "metrics.jsonl").rows()
    assert [r["step"] for r in rows] == [0, 1, 2, 3]
    assert "eval/heldout/avg@2" in rows[0]
    names = [
        *("reward/accuracy", "select/kept_fraction", "select/all_wrong", "select/all_correct", "policy/entropy"),
        *("policy/kl_old", "policy/clip_fraction", "policy/engine_mismatch", "rollout/length_mean"),
        *("rollout/truncated", "verify/timeouts"),
    ]
    for row in rows[1:]:
        assert not set(names) - set(row)
        assert row["policy/engine_mismatch"] < 1e-6
        assert 0 <= row["reward/accuracy"] <= 1
    last = rows[-1]
    assert {"eval/heldout/avg@2", "eval_ci/heldout/avg@2/low", "eval/heldout/kl_ref"} <= set(last)
    text = (finished / "metrics.jsonl").read_text()
    assert str(finished) not in text
    assert os.uname().nodename not in text
    for step in (1, 2, 3):
        table = pq.read_table(rollout_path(finished, step))
        assert table.num_rows == 16
        assert set(table.column_names) >= {"prompt", "response", "reward", "status", "kept", "advantage", "length"}
    latest = finished / "checkpoints" / "latest"
    assert latest.resolve().name == "step-3"
    from transformers import AutoModelForCausalLM

    assert AutoModelForCausalLM.from_pretrained(latest).num_parameters() > 1e5
    assert (finished / "recipe.toml").exists()


def test_two_runs_give_the_same_bits(finished, tmp_path):
    run_it(tmp_path / "two")
    assert comparable(tmp_path / "two") == comparable(finished)


def test_a_resumed_run_gives_the_same_bits(finished, tmp_path):
    run_it(tmp_path / "part", steps=1)
    with (tmp_path / "part" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "cut off')
    run_it(tmp_path / "part", steps=3)
    assert comparable(tmp_path / "part") == comparable(finished)
    weights = [d / "checkpoints" / "step-3" / "model.safetensors" for d in (finished, tmp_path / "part")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_kill_9_and_the_same_command_give_the_same_bits(finished, tmp_path):
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


def test_damaged_checkpoints_are_passed_over_and_named(finished, tmp_path):
    run_it(tmp_path / "d", steps=2)
    directory = tmp_path / "d" / "checkpoints"
    weights = directory / "step-2" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert manifest.newest(directory).name == "step-1"
    run_it(tmp_path / "d", steps=3)
    assert comparable(tmp_path / "d") == comparable(finished)
    for step in (1, 2, 3):
        (directory / f"step-{step}" / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match="manifest"):
        manifest.newest(directory)
    with pytest.raises(CheckpointError, match="--resume must"):
        manifest.newest(tmp_path / "none", must=True)


def test_another_recipe_in_the_same_directory_is_refused(finished):
    with pytest.raises(UsageError, match=r"train\.lr = 0\.0001, not 0\.1"):
        prepare(recipe(finished, train__lr=0.1), say=lambda t: None)


def test_resume_never_sets_the_old_run_aside(tmp_path):
    run_it(tmp_path / "r", steps=1)
    before = (tmp_path / "r" / "metrics.jsonl").read_text()
    run_it(tmp_path / "r", resume="never", steps=1, seed=5)
    assert (tmp_path / "r.old-1" / "metrics.jsonl").read_text() == before
    assert comparable(tmp_path / "r") != comparable(tmp_path / "r.old-1")


def test_verdicts_of_a_replayed_step_are_read_back(tmp_path):
    run_it(tmp_path / "v", steps=1)
    known = read_verdicts(tmp_path / "v", 1)
    assert len(known) == 16
    run = prepare(recipe(tmp_path / "w", steps=1), say=lambda t: None)
    os.makedirs(tmp_path / "w" / "rollouts")
    os.link(rollout_path(tmp_path / "v", 1), rollout_path(tmp_path / "w", 1))
    asked = []
    run.pool.submit = lambda *args: asked.append(args)
    run.pool.collect = dict
    run.heldout = None
    train(run)
    assert not asked, "the verifier is not asked again"


def test_sigterm_finishes_the_step_saves_and_stops(tmp_path):
    run = prepare(recipe(tmp_path / "s"), say=lambda t: None)

    def on_row(row, notes):
        if row["step"] == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with run.pool, pytest.raises(Preempted):
        train(run, on_row)
    assert manifest.newest(tmp_path / "s" / "checkpoints").name == "step-2"


def test_nothing_kept_makes_no_update_and_then_an_alarm(tmp_path):
    run = fake_run(tmp_path, [r"\boxed{x}"], steps=9, alarms__empty_steps=3, alarms__engine_mismatch=0)
    before = [p.clone() for p in run.policy.model.parameters()]
    with run.pool, pytest.raises(Alarm, match="nothing was kept in 3 steps"):
        train(run)
    rows = run.metrics.rows()
    assert [r["train/updates"] for r in rows[1:]] == [0, 0, 0]
    assert all(r["select/all_wrong"] == 1 and "policy/engine_mismatch" in r for r in rows[1:])
    assert all(torch.equal(a, b) for a, b in zip(before, run.policy.model.parameters(), strict=True))
    assert run.engine.version == 3


def test_stale_weights_raise_the_alarm(tmp_path):
    run = fake_run(tmp_path, [r"\boxed{1}"], steps=2)
    with run.pool, pytest.raises(Alarm, match="other weights"):
        train(run)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_trains_two_steps(tmp_path, name):
    run = run_it(tmp_path / name, algorithm=name, steps=2, rollout__samples=4, train__minibatches=2)
    rows = run.metrics.rows()
    assert all(np.isfinite(r["train/loss"]) for r in rows[1:])
    assert sum(r["train/updates"] for r in rows[1:]) > 0
    if name == "ppo":
        assert rows[-1]["train/value_loss"] > 0
    if name in ("dapo", "reinforce_ada"):
        assert max(r["select/rounds"] for r in rows[1:]) > 1


def test_M5_masked_truncated_responses_leave_the_denominator_too(tmp_path):
    """Two right answers of which one is cut off: raft divides by the one that is left."""
    run = fake_run(tmp_path, [r"\boxed{1}"], algorithm="raft", train__mask_truncated=True)
    batch = Batch(
        Responses(
            *(np.array(x) for x in ([0, 0, 0], [1.0, 1.0, 0.0], [True, True, False], [4, 9, 5], [False, True, False]))
        ),
        {}, [], [], run.state.cursor,
    )  # fmt: skip
    credit = assign_credit(run, batch)
    assert credit.keep.tolist() == credit.selected.tolist() == [True, False, False]
    (part,) = pack(batch.responses, credit, {}, run.algorithm, 1)
    assert part.denominator.lengths == [4]


def test_M9_the_greedy_response_of_each_prompt_is_there_row_by_row(tmp_path):
    """Everything a shape looks at: reward, correct, length, truncated."""
    run = prepare(recipe(tmp_path / "g", algorithm="remax", axes__shape="zero_one"), say=lambda t: None)
    with run.pool:
        batch = collect(run)
    rows, greedy = batch.responses, batch.responses.greedy
    assert len(greedy) == len(rows) == 16
    assert (greedy.prompt_R == rows.prompt_R).all()
    for group in range(4):
        mine = greedy.prompt_R == group
        for values in (greedy.reward_R, greedy.length_R, greedy.truncated_R):
            assert len(set(values[mine])) == 1
    assert (greedy.length_R >= 1).all()
    assert (greedy.length_R <= 26).all()
    assert (greedy.correct_R == (greedy.reward_R == 1)).all()
    advantage = assign_credit(run, batch).advantage
    np.testing.assert_array_equal(advantage, 1.0 * rows.correct_R - greedy.correct_R)


@pytest.mark.parametrize("minibatches", [1, 2])
def test_M16_reinforce_ada_counts_n_responses_a_prompt_however_many_it_drew(tmp_path, minibatches):
    """All are wrong: 4 prompts x 4 rounds x 4 responses, of which each prompt has 4 in the denominator."""
    run = fake_run(tmp_path, [r"\boxed{x}"], algorithm="reinforce_ada", train__minibatches=minibatches)
    with run.pool:
        batch = collect(run)
    assert (len(batch.responses), batch.rounds, batch.responses.samples) == (64, 4, 4)
    batches = pack(batch.responses, assign_credit(run, batch), batch.rollouts, run.algorithm, minibatches)
    assert [len(b.denominator.lengths) for b in batches] == [16 // minibatches] * minibatches
    assert not any(b.samples for b in batches)


def nan_advantage(responses, shaped_R):
    return np.where(np.arange(len(responses)) == 1, np.nan, shaped_R)


def nan_objective(tokens, ratio_T):
    return ratio_T * tokens.advantage_T * float("inf")


def run_with(tmp_path, algorithm, **overrides):
    """A run with an algorithm that breaks during training only; what the console said."""
    run = prepare(recipe(tmp_path / "n", **overrides), say=lambda t: None)
    run.algorithm = run.learner.algorithm = algorithm
    run.heldout = None
    console = Console(file=io.StringIO(), width=200)
    return run, Progress(run.recipe, 0, False, console), console.file


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"advantage": nan_advantage}, "advantages"),
        ({"objective": nan_objective}, "losses"),
        ({"objective": lambda t, ratio_T: (t.logp_T - t.logp_T.detach()).abs().sqrt() * ratio_T}, "gradients"),
    ],
)
def test_S5_nan_is_said_at_once_and_stops_the_run(tmp_path, change, named):
    algorithm = replace(get_algorithm("reinforce"), **change)
    run, progress, out = run_with(tmp_path, algorithm, steps=99, alarms__nonfinite_steps=4)
    before = [p.clone() for p in run.policy.model.parameters()]
    with run.pool, pytest.raises(Alarm, match=rf"4 steps in a row \(now in .*{named}.*nonfinite_steps = 0"):
        train(run, progress)
    assert all(torch.equal(a, b) for a, b in zip(before, run.policy.model.parameters(), strict=True))
    rows = run.metrics.rows()[1:]
    assert len(rows) == 4, "one more than by default"
    assert build({}).alarms.nonfinite_steps == 3
    assert all(row[f"nonfinite/{named}"] > 0 and row["nonfinite/gradients"] == 1 for row in rows)
    assert out.getvalue().count("NaN or infinity") == 4
    text = (run.run_dir / "metrics.jsonl").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    assert all(row["train/loss"] is None or named == "gradients" for row in rows)
    summary(run.run_dir, progress.console)
    curve(run.run_dir)


def test_S5_a_run_goes_on_where_it_is_told_to_and_counts_in_a_row_over_a_resume(tmp_path):
    algorithm = replace(get_algorithm("reinforce"), advantage=nan_advantage)
    run, progress, out = run_with(tmp_path, algorithm, steps=4, alarms__nonfinite_steps=0)
    with run.pool:
        train(run, progress)
    assert out.getvalue().count("NaN or infinity") == 4
    assert State.of(manifest.load_state(manifest.newest(run.run_dir / "checkpoints"))).nonfinite_steps == 4
    old = {"step": 1, "cursor": {"epoch": 0, "index": 0}, "empty_steps": 0, "graded": False}
    assert State.of(old).nonfinite_steps == 0, "a checkpoint from before there was this count"


def test_sizes_that_cannot_work_are_refused_with_the_arithmetic(tmp_path):
    with pytest.raises(UsageError, match="at most 4"):
        recipe(tmp_path, train__minibatches=5)
    with pytest.raises(UsageError, match="groups of one"):
        prepare(recipe(tmp_path / "x", rollout__samples=1))
    with pytest.raises(UsageError, match="together"):
        prepare(recipe(tmp_path / "x", rollout__max_tokens=100_000), say=lambda t: None)
    with pytest.raises(DataError, match="max_prompt_tokens"):
        prepare(recipe(tmp_path / "x", data__max_prompt_tokens=2), say=lambda t: None)
    assert not (tmp_path / "x").exists(), "nothing half-written"


def test_lora_trains_and_resumes_to_the_same_bits(tmp_path):
    options = {"dtype": "float32", "model__lora__rank": 2}
    run_it(tmp_path / "whole", steps=2, **options)
    run_it(tmp_path / "part", steps=1, **options)
    run_it(tmp_path / "part", steps=2, **options)
    assert comparable(tmp_path / "whole") == comparable(tmp_path / "part")
    assert (tmp_path / "whole" / "checkpoints" / "latest" / "adapter_config.json").exists()


def test_a_killed_save_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    run = run_it(tmp_path / "k", steps=1)
    monkeypatch.setattr(checkpoint, "sync", lambda path: 1 / 0)
    run.state.step = 2
    with pytest.raises(ZeroDivisionError):
        save(run)
    assert manifest.newest(tmp_path / "k" / "checkpoints").name == "step-1"
    assert json.loads((tmp_path / "k" / "checkpoints" / "latest" / "training.json").read_text())["step"] == 1


def test_the_shipped_model_is_small():
    assert sum(f.stat().st_size for f in BASE.iterdir()) < 10e6


def test_M17_a_bfloat16_engine_counts_as_foreign(tmp_path):
    """It rounds on its own: 0.006 nats from the learner in the mean, more than the clip of gspo."""
    for dtype, foreign in (("float32", False), ("bfloat16", True)):
        run = prepare(recipe(tmp_path / dtype, dtype=dtype), say=lambda text: None)
        with run.pool:
            assert run.learner.off_policy_engine == foreign


def test_M17_a_ratio_to_the_engine_within_a_clip_below_its_rounding_is_refused(tmp_path):
    changes = {"algorithm": "gspo", "dtype": "bfloat16", "train__old": "engine"}
    with pytest.raises(UsageError, match="gspo clips the ratio at"):
        prepare(recipe(tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()
