"""A run's responses under other algorithms: its own gives the credit that was logged, and others what they are."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from runs import fake_run

from sieverl.algorithms import ALGORITHMS
from sieverl.cli import main
from sieverl.data import Cursor
from sieverl.errors import DataError, UsageError
from sieverl.recipe import Recipe, to_toml
from sieverl.replay.credit import check_same, replay
from sieverl.replay.rows import Logged, chosen_steps, graded_in, read_logged
from sieverl.rollout.collect import collect_rollouts
from sieverl.run_dir.rollouts import rollout_path
from sieverl.run_dir.saved import SavedRun
from sieverl.training.loop import assign_credit
from sieverl.training.records import log_rollouts
from sieverl.training.state import Run

SAID = [f"\\boxed{{{n}}}" for n in range(4, 16)]
CANNOT = {"remax"}
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """A run that answers with numbers, some of them right, and trains nothing."""
    with fake_run(tmp_path_factory.mktemp("run"), SAID, rollout__samples=len(SAID), rollout__prompts=6) as run:
        yield run


def log_two_steps(run: Run, folder: Path, **changes: Any) -> tuple[SavedRun, Recipe]:
    """Two steps of responses with the credit of the recipe's algorithm, as the loop logs them."""
    recipe = run.recipe.model_copy(update={"run_dir": str(folder), **changes})
    run = replace(run, recipe=recipe, algorithm=ALGORITHMS[recipe.algorithm], state=replace(run.state, step=0))
    cursor = Cursor()
    for _ in range(2):
        batch = collect_rollouts(run.environment, run.prompts, run.algorithm, cursor, recipe.rollout, graded=None)
        credit, cursor = assign_credit(run, batch), batch.cursor
        run.state.step += 1
        log_rollouts(run, batch, credit, [])
    (folder / "recipe.toml").write_text(to_toml(recipe))
    saved = SavedRun.read(folder)
    return saved, recipe


def logged_of(saved: SavedRun, recipe: Recipe) -> list[Logged]:
    return [one for step in saved.logged["step"] if (one := read_logged(saved, recipe, step))]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_runs_own_algorithm_gives_what_was_logged(name: str, prepared: Run, tmp_path: Path) -> None:
    saved, recipe = log_two_steps(prepared, tmp_path, algorithm=name)
    logged = logged_of(saved, recipe)
    own = replay(recipe, name, logged, graded_in(saved, recipe))
    if name in CANNOT:
        assert "greedy" in own.refused
        return
    check_same(own, logged)
    for one in logged:
        assert np.array_equal(own.credits[one.step].keep, one.kept_R)
        assert np.array_equal(own.credits[one.step].advantage, one.advantage_R)
    assert sum(tally.kept for tally in own.tallies) > 0, "else the test says nothing"
    assert [tally.agreed for tally in own.tallies] == [tally.responses for tally in own.tallies]
    wrong = replace(logged[1], advantage_R=logged[1].advantage_R + np.eye(len(logged[1].kept_R))[3])
    with pytest.raises(DataError, match=f"step 2: {name} gives 1 of "):
        check_same(own, [logged[0], wrong])


def test_masked_responses_stay_masked(prepared: Run, tmp_path: Path) -> None:
    train = prepared.recipe.train.model_copy(update={"mask_truncated": True})
    rollout = prepared.recipe.rollout.model_copy(update={"max_tokens": 26})
    saved, recipe = log_two_steps(prepared, tmp_path, algorithm="reinforce", train=train, rollout=rollout)
    logged = logged_of(saved, recipe)
    cut = replace(logged[0].responses, truncated_R=logged[0].responses.length_R >= 0)
    again = replay(recipe, "reinforce", [replace(logged[0], responses=cut)], False)
    assert again.tallies[0].kept == 0
    check_same(replay(recipe, "reinforce", logged, False), logged)


def test_counts_are_those_of_the_other_algorithm(prepared: Run, tmp_path: Path) -> None:
    saved, recipe = log_two_steps(prepared, tmp_path, algorithm="reinforce")
    logged = logged_of(saved, recipe)
    raft = replay(recipe, "raft", logged, False)
    for one, tally in zip(logged, raft.tallies, strict=True):
        right_R = one.responses.correct_R
        assert (tally.kept, tally.positive, tally.negative) == (right_R.sum(), right_R.sum(), 0)
        assert tally.kept_tokens == one.responses.length_R[right_R].sum()
        assert tally.agreed == right_R.sum(), "reinforce keeps all"
    dapo = replay(recipe, "dapo", logged, False)
    assert "samples again" in dapo.note
    alone = replace(logged[0].responses, prompt_R=np.arange(len(logged[0].kept_R)))
    grpo = replay(recipe, "grpo", [replace(logged[0], responses=alone)], False)
    assert "step 1: prompt 0 has one response" in grpo.refused
    few = recipe.model_copy(update={"rollout": recipe.rollout.model_copy(update={"samples": 1})})
    assert "groups of one" in replay(few, "grpo", logged, False).refused
    assert "Did you mean grpo?" in replay(recipe, "grpoo", logged, False).refused


def test_graded_is_what_the_run_took_rewards_for(prepared: Run, tmp_path: Path, finished: Path) -> None:
    recipe = prepared.recipe
    mine = recipe.model_copy(update={"verify": recipe.verify.model_copy(update={"name": "mine.py:f"})})
    saved, _ = log_two_steps(prepared, tmp_path, algorithm="grpo")
    assert graded_in(saved, recipe) is False, "the verifier says it"
    with pytest.raises(DataError, match="--graded yes or --graded no"):
        graded_in(saved, mine)
    assert graded_in(saved, mine, told=True)
    declared = mine.model_copy(update={"verify": mine.verify.model_copy(update={"graded": True})})
    assert graded_in(saved, declared)
    assert graded_in(SavedRun.read(finished), declared) is False, "the checkpoint says what was"


def test_steps_are_chosen_by_a_number_or_a_range(prepared: Run, tmp_path: Path) -> None:
    saved, _ = log_two_steps(prepared, tmp_path)
    wanted = {None: [1, 2], "2": [2], "1:2": [1, 2], "2:": [2], ":1": [1], ":": [1, 2]}
    assert {text: chosen_steps(saved, text) for text in wanted} == wanted
    for text in ("x", "1:2:3", "-1", "1-2", ""):
        with pytest.raises(UsageError, match="such as 1:20"):
            chosen_steps(saved, text)
    with pytest.raises(UsageError, match="no responses of step 7"):
        chosen_steps(saved, "7")


# --- the command ------------------------------------------------------------------------------------


def told(capsys: Capture, *arguments: str) -> Any:
    assert main(["replay", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_gradient_of_the_runs_own_algorithm_is_the_one_that_was_logged(finished: Path, capsys: Capture) -> None:
    """And another algorithm has another one, at the same weights."""
    own = SavedRun.read(finished).setting("algorithm")
    found = told(capsys, str(finished), "--algorithm", own, "--algorithm", "raft", "--algorithm", "ppo", "--gradients")
    assert found["checked"]
    logged = dict(zip(*SavedRun.read(finished).series("train/grad_norm"), strict=True))
    ours = found["algorithms"][own]["gradients"]
    assert {one["step"]: one["norm"] for one in ours} == pytest.approx(logged, rel=1e-6)
    assert [one["cosine"] for one in ours if one["norm"]] == pytest.approx([1.0] * sum(x > 0 for x in logged.values()))
    raft = found["algorithms"]["raft"]["gradients"]
    assert any(one["norm"] > 0 for one in raft)
    assert all(one["cosine"] is None or -1 <= one["cosine"] < 0.999 for one in raft)
    assert found["algorithms"]["ppo"]["gradients"] == []
    assert found["algorithms"]["ppo"]["total"]["kept"] > 0


def test_what_cannot_be_is_said_in_a_line(finished: Path, tmp_path: Path, capsys: Capture) -> None:
    def refused(*arguments: str) -> str:
        code = main(["replay", *arguments])
        out = capsys.readouterr()
        assert code in (2, 3)
        assert out.out == ""
        assert len(out.err.splitlines()) == 1
        return out.err

    run = str(finished)
    assert "remax cannot be replayed: it subtracts the reward of a greedy" in refused(run, "--algorithm", "remax")
    assert "Did you mean grpo?" in refused(run, "--algorithm", "grppo")
    assert "give one of them" in refused(run, "--algorithm", "raft", "--step", "1", "--steps", "1:2")
    assert "holds no run" in refused(str(tmp_path), "--algorithm", "raft")
    copy = shutil.copytree(finished, tmp_path / "copy")
    shutil.rmtree(copy / "checkpoints" / "step-1")
    assert "no checkpoint of step 1; those of step 1, 3, 4" in refused(
        str(copy), "--algorithm", "raft", "--step", "2", "--gradients"
    )
    (copy / "checkpoints" / "step-2" / "config.json").write_text("{}")
    assert "step-2 is damaged: config.json has changed" in refused(
        str(copy), "--algorithm", "raft", "--step", "3", "--gradients"
    )
    file = rollout_path(copy, 1)
    table = pq.read_table(file)
    kept = table.column_names.index("kept")
    pq.write_table(table.set_column(kept, "kept", [[not x for x in table["kept"].to_pylist()]]), file)
    assert "another credit than the run logged" in refused(str(copy), "--algorithm", "raft")
    file.write_bytes(b"no")
    assert main(["replay", str(copy), "--algorithm", "raft"]) == 0
    assert "step-000001.parquet is left out" in capsys.readouterr().out
