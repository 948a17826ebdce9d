"""A run directory as displays read it: whatever is there, of whichever version, and what is not is named."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from saved_runs import make_run, response

from sieverl.errors import DataError
from sieverl.run_dir.rollouts import COLUMNS, MARK, read_rollouts, rollout_path, write_rollouts
from sieverl.run_dir.saved import SavedRun, runs_in


def test_a_run_is_read(tmp_path: Path) -> None:
    run = SavedRun.read(make_run(tmp_path, steps=3))
    assert (run.name, run.step, run.steps, run.heldout) == ("one", 3, 3, "eval/demo/avg@4")
    assert run.series("reward/accuracy") == ([1, 2, 3], [0.5] * 3)
    assert run.logged == {"step": [1, 2, 3], "eval": [0, 3]}
    assert run.setting("verify.name") == "math"
    assert run.setting("verify.name.deeper", "none") == "none"
    table = run.responses(2, ["sample", "correct"], where=[("group", "=", 1)])
    assert table is not None
    assert table.to_pydict() == {"sample": [0, 1, 2, 3], "correct": [True, True, False, False]}
    assert run.problems == ["environment.json is missing"]


def test_a_file_of_the_first_version_has_nulls_for_what_it_lacks(tmp_path: Path) -> None:
    path = rollout_path(make_run(tmp_path), 2)
    new = ["extracted", "reason", "tokens", "engine_logp", "learner_logp"]
    pq.write_table(pq.read_table(path).drop_columns(new).replace_schema_metadata(None), path)
    run = SavedRun.read(tmp_path / "one")
    table = run.responses(2)
    assert table is not None
    assert table.column_names == list(COLUMNS)
    assert all(table[name].null_count == table.num_rows == 12 for name in new)
    assert read_rollouts(tmp_path / "one", 2) == [], "a run that goes on verifies again"


@pytest.mark.parametrize(("version", "readable"), [(b"3", False), (b"99", False), (b"x", True), (b"", True)])
def test_a_newer_version_is_named_and_not_guessed(tmp_path: Path, version: bytes, readable: bool) -> None:
    path = rollout_path(make_run(tmp_path), 2)
    pq.write_table(pq.read_table(path).replace_schema_metadata({MARK: version}), path)
    run = SavedRun.read(tmp_path / "one")
    assert (run.responses(2) is not None) == readable
    assert any("reads up to 2" in text for text in run.problems) != readable
    run.responses(2)
    assert len(run.problems) == len(set(run.problems)), "each is said once"


@pytest.mark.parametrize("harm", [b"", b"PAR1", b"\0" * 4000, None])
def test_a_damaged_or_missing_step_is_left_out(tmp_path: Path, harm: bytes | None) -> None:
    path = rollout_path(make_run(tmp_path), 2)
    if harm is None:
        path.unlink()
    else:
        path.write_bytes(harm)
    run = SavedRun.read(tmp_path / "one")
    assert run.responses(2) is None
    assert run.responses(3) is not None
    assert any("step-000002.parquet" in text for text in run.problems) == (harm is not None)


def test_parts_of_rewards_are_columns_and_a_where_finds_nothing(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path)
    write_rollouts(run_dir, 4, [response(4, 0, 0, True, parts={"math": 1.0, "brief": None})])
    table = SavedRun.read(run_dir).responses(4)
    assert table is not None
    assert table.column_names == [*COLUMNS, "reward/brief", "reward/math"]
    empty = SavedRun.read(run_dir).responses(4, where=[("group", "=", 7)])
    assert isinstance(empty, pa.Table)
    assert empty.num_rows == 0


def test_rows_that_were_written_twice_or_are_damaged(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path)
    with (run_dir / "metrics.jsonl").open("a") as log:
        log.write('{"step": 2, "reward/accuracy": 0.75}\nno row\n')
        log.write('{"step": 3, "reward/accuracy": 1' + "0" * 400 + '}\n{"step": 4, "reward/accu')
    run = SavedRun.read(run_dir)
    assert [row["step"] for row in run.rows] == [0, 1, 2, 3]
    assert run.series("reward/accuracy") == ([1, 2], [0.5, 0.75]), "a number that no float holds is none"
    assert "metrics.jsonl: line 6 is damaged" in run.problems


@pytest.mark.parametrize("text", ["not = [toml", "\xff", ""])
def test_a_recipe_that_is_none(tmp_path: Path, text: str) -> None:
    run_dir = make_run(tmp_path)
    (run_dir / "recipe.toml").write_text(text, encoding="latin-1")
    run = SavedRun.read(run_dir)
    assert (run.recipe, run.steps) == ({}, None)
    assert any(problem.startswith("recipe.toml") for problem in run.problems) == bool(text)


def test_runs_of_a_folder_the_newest_first_and_what_is_no_run(tmp_path: Path) -> None:
    for age, name in enumerate(("new", "old", "oldest")):
        for file in make_run(tmp_path, name).iterdir():
            os.utime(file, (1e9 - age, 1e9 - age))
    (tmp_path / "no-run").mkdir()
    assert [path.name for path in runs_in(tmp_path)] == ["new", "old", "oldest"]
    assert runs_in(tmp_path / "new") == [tmp_path / "new"]
    with pytest.raises(DataError, match=r"holds no run: .*there are .*new"):
        SavedRun.read(tmp_path)
    with pytest.raises(DataError, match="holds no run"):
        SavedRun.read(tmp_path / "nowhere")
