"""The loop around a real (tiny, random) model and around a fake engine: files, bits, selection, greedy baseline."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from runs import comparable, fake_run, newest_step, recipe, run_it
from transformers import AutoModelForCausalLM

from sieverl.algorithms import ALGORITHMS
from sieverl.learner.batches import pack
from sieverl.rollout.collect import Batch
from sieverl.run_dir.metrics import MetricsLog
from sieverl.run_dir.rollouts import rollout_path
from sieverl.training.ahead import next_batch
from sieverl.training.loop import assign_credit, train
from sieverl.training.setup import prepare
from sieverl.training.signals import Preempted
from sieverl.types import Metrics, Note, Responses


def test_a_run_directory_holds_what_it_promises(finished: Path) -> None:
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
    assert AutoModelForCausalLM.from_pretrained(latest).num_parameters() > 1e5
    assert (finished / "recipe.toml").exists()


def test_two_runs_give_the_same_bits(finished: Path, tmp_path: Path) -> None:
    run_it(tmp_path / "two")
    assert comparable(tmp_path / "two") == comparable(finished)


def test_sigterm_finishes_the_step_saves_and_stops(tmp_path: Path) -> None:
    run = prepare(recipe(tmp_path / "s"), say=lambda t: None)

    def on_row(row: Metrics, notes: Sequence[Note]) -> None:
        if row["step"] == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with run, pytest.raises(Preempted):
        train(run, on_row)
    assert newest_step(tmp_path / "s") == 2


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_trains_two_steps(tmp_path: Path, name: str) -> None:
    run = run_it(tmp_path / name, algorithm=name, steps=2, rollout__samples=4, train__minibatches=2)
    rows = run.metrics.rows()
    assert all(np.isfinite(r["train/loss"]) for r in rows[1:])
    assert sum(r["train/updates"] for r in rows[1:]) > 0
    if name == "ppo":
        assert rows[-1]["train/value_loss"] > 0
    if name in ("dapo", "reinforce_ada"):
        assert max(r["select/rounds"] for r in rows[1:]) > 1


def test_M5_masked_truncated_responses_leave_the_denominator_too(tmp_path: Path) -> None:
    """Two right answers of which one is cut off: raft divides by the one that is left."""
    run = fake_run(tmp_path, [r"\boxed{1}"], algorithm="raft", train__mask_truncated=True)
    responses = Responses(
        prompt_R=np.zeros(3, dtype=np.int64),
        reward_R=np.array([1.0, 1.0, 0.0]),
        correct_R=np.array([True, True, False]),
        length_R=np.array([4, 9, 5]),
        truncated_R=np.array([False, True, False]),
    )
    batch = Batch(responses, {}, [], [], run.state.cursor)
    credit = assign_credit(run, batch)
    assert credit.keep.tolist() == credit.selected.tolist() == [True, False, False]
    (part,) = pack(batch.responses, credit, {}, run.algorithm, 1)
    assert part.denominator.lengths == [4]


def test_M9_the_greedy_response_of_each_prompt_is_there_row_by_row(tmp_path: Path) -> None:
    """Everything a shape looks at: reward, correct, length, truncated."""
    run = prepare(recipe(tmp_path / "g", algorithm="remax", axes__shape="zero_one"), say=lambda t: None)
    with run:
        batch = next_batch(run)
    rows, greedy = batch.responses, batch.responses.greedy
    assert greedy is not None
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
def test_M16_reinforce_ada_counts_n_responses_a_prompt_however_many_it_drew(tmp_path: Path, minibatches: int) -> None:
    """All are wrong: 4 prompts x 4 rounds x 4 responses, of which each prompt has 4 in the denominator."""
    run = fake_run(tmp_path, [r"\boxed{x}"], algorithm="reinforce_ada", train__minibatches=minibatches)
    with run:
        batch = next_batch(run)
    assert (len(batch.responses), batch.rounds, batch.responses.samples) == (64, 4, 4)
    batches = pack(batch.responses, assign_credit(run, batch), batch.rollouts, run.algorithm, minibatches)
    assert [len(b.denominator.lengths) for b in batches] == [16 // minibatches] * minibatches
    assert not any(b.samples for b in batches)
