"""Training from Python: rewards, algorithms and rows that a program has in memory."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sieverl
from sieverl.algorithms.credit import share_correct
from sieverl.api.train import resolve
from sieverl.errors import UsageError
from sieverl.recipe import load
from sieverl.types import Metrics

SMALL: dict[str, Any] = {"prompts": 2, "samples": 2, "max_tokens": 8}


def small(**keys: Any) -> sieverl.TrainedRun:
    """A run of one small step, without a display."""
    tables: dict[str, Any] = {"steps": 1, "rollout": SMALL, "data": "data.jsonl", "display": "none"} | keys
    return sieverl.train(**tables)


def test_a_file_with_keywords_on_top_is_what_the_command_trains(work: Path) -> None:
    (work / "more.toml").write_text("seed = 4\n[train]\nlr = 0.5\n")
    found = resolve(["r.toml", "more.toml"], {"train": {"epochs": 2}, "rollout.samples": 4, "steps": 3})
    expected = load(["r.toml", "more.toml"], {"train.epochs": 2, "rollout.samples": 4, "steps": 3})
    assert found == expected.model_copy(update={"run_dir": "runs/r-more"})
    assert resolve("r.toml", {"run_dir": "mine"}).run_dir == "mine"
    assert resolve(load("r.toml"), {"seed": 7}).seed == 7
    assert resolve({"train": {"lr": 0.5}}, {"train": {"epochs": 2}}).train.lr == 0.5


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"trian": {"lr": 1}}, "there is no key 'trian'. Did you mean"),
        ({"train": {"lrr": 1}}, "Did you mean train.lr?"),
        ({"learning_rate": 1e-5}, "Did you mean train.lr?"),
        ({"data": 3}, "data is a int; give a table"),
        ({"reward": 3}, "reward is a int; give a function"),
        ({"reward": ["math"], "reward_weights": [1.0, 2.0]}, "2 numbers for 1 rewards"),
        ({"reward_weights": [1.0]}, "give reward="),
        ({"reward": "mth"}, "Did you mean math?"),
        ({"algorithm": "grpoo"}, "Did you mean grpo?"),
    ],
)
def test_what_cannot_be_is_said(work: Path, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        small(**keys)
    assert message in str(caught.value)


def test_a_closure_an_own_algorithm_and_rows_in_memory(work: Path) -> None:
    wanted = {"short": 3}

    def short(response: str, row: dict[str, Any]) -> float:
        return float(len(response) <= wanted["short"]) * row["weight"]

    hard = sieverl.Algorithm(select=lambda responses: share_correct(responses) < 0.9)
    rows = [{"prompt": f"{n}+1", "weight": 1.0} for n in range(4)]
    run = small(reward=short, algorithm=hard, data=rows, run_dir="out/run", steps=2, checkpoint={"every": 1})
    assert run.recipe["verify"]["name"] == "given:short"
    assert run.recipe["algorithm"] == "given:algorithm"
    responses = run.responses()
    assert set(responses["reward"]) <= {0.0, 1.0}
    whole = responses[responses["status"] != "truncated"]
    assert all((whole["response"].str.len() <= 3) == (whole["reward"] == 1.0))
    assert len(list((work / "out").glob("run.data-*.jsonl"))) == 1
    again = small(reward=short, algorithm=hard, data=rows, run_dir="out/run", steps=3, checkpoint={"every": 1})
    assert list(again.metrics.index) == [0, 1, 2, 3]
    with pytest.raises(UsageError, match=r"holds a run with data\.source"):
        small(reward=short, algorithm=hard, data=rows[:3], run_dir="out/run", steps=3)
    command = [sys.executable, "-m", "sieverl", "train", "out/run/recipe.toml", "--steps", "4"]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 2
    assert "was given by a Python program, and this one gave nothing" in ran.stderr


def test_rewards_apart_with_weights(work: Path) -> None:
    def brief(completions: list[str], **columns: Any) -> list[float]:
        return [1.0 / (1 + len(one)) for one in completions]

    run = small(reward=["number", brief], reward_weights=[1.0, 0.5], run_dir="sum", rollout={**SMALL, "max_tokens": 64})
    assert {"reward/number/mean", "reward/brief/mean"} <= set(run.metrics)


def test_frames_and_datasets_are_rows(work: Path) -> None:
    import datasets
    import pandas

    rows = [{"prompt": f"{n}+1", "answer": str(n + 1)} for n in range(4)]
    kinds: list[Any] = [rows, pandas.DataFrame(rows), datasets.Dataset.from_list(rows)]
    assert len({resolve(None, {"data": kind}).data.source for kind in kinds}) == 1


def test_callbacks_see_every_row_and_can_stop_the_run(work: Path) -> None:
    seen: list[Metrics] = []

    def stop_after_two(row: Metrics) -> bool:
        seen.append(row)
        return row["step"] == 2

    run = small(steps=5, callbacks=[stop_after_two], run_dir="stopped")
    assert [row["step"] for row in seen] == [0, 1, 2]
    assert run.checkpoint().name == "step-2"
    whole = small(steps=5, callbacks=[seen.append], run_dir="stopped")
    assert [row["step"] for row in seen] == [0, 1, 2, 3, 4, 5]
    straight = small(steps=5, run_dir="straight")
    columns = [name for name in straight.metrics if not name.startswith(("time/", "memory/", "rollout/tokens_per"))]
    assert whole.metrics[columns].equals(straight.metrics[columns])


def test_trackers_of_the_program_get_the_rows(work: Path) -> None:
    seen: list[Metrics] = []
    run = small(trackers=[seen.append], run_dir="tracked")
    assert [row["step"] for row in seen] == [0, 1]
    assert run.recipe["trackers"]["use"] == []
    with pytest.raises(UsageError, match="none of tensorboard"):
        small(trackers=["wanb"], run_dir="other")


def test_an_error_of_a_callback_is_the_programs(work: Path) -> None:
    def fail(row: Metrics) -> None:
        raise ZeroDivisionError(row["step"])

    with pytest.raises(ZeroDivisionError):
        small(callbacks=[fail], run_dir="fails")


def test_a_script_whose_reward_is_in_a_file_can_go_on_from_the_command_line(work: Path) -> None:
    (work / "mine.py").write_text("def short(response, row):\n    return float(len(response) < 4)\n")
    (work / "script.py").write_text(
        "import sieverl\nfrom mine import short\n"
        "sieverl.train('r.toml', reward=short, display='none', run_dir='s', evaluate={'every': 0})\n"
    )
    subprocess.run([sys.executable, "script.py"], check=True, env=with_here(work))
    assert load("s/recipe.toml").verify.name == "mine.py:short"
    again = [sys.executable, "-m", "sieverl", "train", "s/recipe.toml", "--steps", "2"]
    assert subprocess.run(again, capture_output=True).returncode == 0


def with_here(folder: Path) -> dict[str, str]:
    """The environment with a folder to import from."""
    import os

    return {**os.environ, "PYTHONPATH": f"{os.environ.get('PYTHONPATH', '')}:{folder}"}


def test_every_public_name_has_an_example_that_runs() -> None:
    for name in sieverl.__all__:
        value: Callable[..., Any] = getattr(sieverl, name)
        if name == "__version__":
            continue
        assert ">>>" in (value.__doc__ or ""), name
        assert dataclasses.is_dataclass(value) or callable(value)
