"""A checkpoint that is damaged, of another model or of other data is never resumed from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harm import harm_all, seal
from runs import NOT_EVALUATED, comparable, recipe, run_it
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sieverl.errors import CheckpointError, DataError, UsageError
from sieverl.run_dir import manifest
from sieverl.training.setup import prepare

RUN: dict[str, Any] = {**NOT_EVALUATED, "rollout__prompts": 2}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps with a checkpoint of each."""
    folder = tmp_path_factory.mktemp("trained") / "r"
    run_it(folder, **{**RUN, "steps": 2})
    return folder


def test_a_thousand_corruptions_are_all_found(trained: Path, tmp_path: Path) -> None:
    harm_all(trained / "checkpoints", tmp_path / "checkpoints", 1000)


def resealed(run_dir: Path, trained: Path, change: Callable[[Path], None]) -> Path:
    """A copy of the run whose last checkpoint was changed and has a manifest that says so."""
    shutil.copytree(trained, run_dir, symlinks=True)
    path = run_dir / "checkpoints" / "step-2"
    change(path)
    seal(path)
    return run_dir


def refused(run_dir: Path, match: str, error: type[Exception] = CheckpointError, **changes: Any) -> None:
    with pytest.raises(error, match=match):
        prepare(recipe(run_dir, **{**RUN, **changes}), say=lambda text: None)


def test_i7_optimiser_tensors_of_another_shape(trained: Path, tmp_path: Path) -> None:
    def widen(path: Path) -> None:
        tensors = load_file(path / "training.safetensors")
        name = next(name for name, x in tensors.items() if x.dim() == 2)
        save_file({**tensors, name: tensors[name].repeat(2, 1)}, path / "training.safetensors")

    refused(resealed(tmp_path / "r", trained, widen), "has the shape .*and the model's is")


def test_i7_a_part_of_a_sharded_state_of_another_shape_or_missing(tmp_path: Path) -> None:
    """PyTorch's own error, no `Exception`, would have gone by everyone who catches one."""
    options: dict[str, Any] = {"algorithm": "ppo", "checkpoint__format": "sharded", "rollout__prompts": 4}
    run_it(tmp_path / "r", **{**RUN, **options, "steps": 1})
    path = tmp_path / "r" / "checkpoints" / "step-1"
    (part,) = (path / "training").iterdir()
    with safe_open(part, framework="pt") as handle:
        about = handle.metadata()
    tensors = load_file(part)
    name = next(name for name, x in tensors.items() if x.dim() == 2)
    rest = {other: x for other, x in tensors.items() if other != name}
    for tampered, match in (({**rest, name: tensors[name].repeat(2, 1)}, "has the shape"), (rest, "is missing")):
        save_file(tampered, part, metadata=about)
        seal(path)
        refused(tmp_path / "r", f"{name} {match}", **options)


@pytest.mark.parametrize(
    "change",
    [
        {"step": -5},
        {"step": "2"},
        {"step": 2.5},
        {"step": None},
        {"cursor": {"epoch": 0, "index": -1}},
        {"cursor": 7},
        {"empty_steps": []},
        {"graded": "yes"},
        {"data": [1]},
        {"step": 7},
    ],
    ids=str,
)
def test_i12_a_state_of_other_types(trained: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    def edit(path: Path) -> None:
        state = json.loads((path / "training.json").read_text())
        (path / "training.json").write_text(json.dumps(state | change))

    refused(resealed(tmp_path / "r", trained, edit), "checkpoint")


def test_prompts_that_changed_since_the_run_began(tmp_path: Path) -> None:
    rows = [{"prompt": f"{a}+{b}=", "answer": str(a + b)} for a in range(4) for b in range(4)]
    file = tmp_path / "sums.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data: dict[str, Any] = {"data": {"source": str(file), "check_gold": 2}}
    run_it(tmp_path / "r", **{**RUN, **data, "steps": 1})
    run_it(tmp_path / "r", **{**RUN, **data, "steps": 2})
    rows[3]["answer"] = "7"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    refused(tmp_path / "r", r"data\.source = .*sums\.jsonl.* holds other prompts", DataError, **data)
    run_it(tmp_path / "r", "never", **{**RUN, **data, "steps": 1})


def test_s1_two_runs_on_one_directory(tmp_path: Path) -> None:
    run_it(tmp_path / "r", **{**RUN, "steps": 1})
    with prepare(recipe(tmp_path / "r", **RUN), say=lambda text: None):
        refused(tmp_path / "r", "another run is at work in", UsageError)
        with pytest.raises(UsageError, match="another run is at work"):
            prepare(recipe(tmp_path / "r", **RUN), "never", say=lambda text: None)
    run_it(tmp_path / "r", **{**RUN, "steps": 2})
    assert [row["step"] for row in comparable(tmp_path / "r")] == [0, 1, 2]


def test_a_run_that_was_made_meanwhile_is_not_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sieverl.training import setup

    build = setup.build_learner

    def slowly(*arguments: Any) -> Any:
        monkeypatch.setattr(setup, "build_learner", build)
        run_it(tmp_path / "r", **{**RUN, "steps": 1})
        return build(*arguments)

    monkeypatch.setattr(setup, "build_learner", slowly)
    refused(tmp_path / "r", "another run was made in .* meanwhile", UsageError)
    assert len(comparable(tmp_path / "r")) == 2


def kept(run_dir: Path) -> list[int]:
    return manifest.steps(run_dir / "checkpoints")


def test_retention(tmp_path: Path) -> None:
    run_it(tmp_path / "every", **{**RUN, "steps": 5, "checkpoint__keep": 1, "checkpoint__keep_every": 2})
    assert kept(tmp_path / "every") == [2, 4, 5]
    best: dict[str, Any] = {"rollout__prompts": 2, "steps": 4, "checkpoint__keep": 1, "checkpoint__keep_best": True}
    run_it(tmp_path / "best", **best)
    scores = {row["step"]: row["eval/heldout/avg@2"] for row in comparable(tmp_path / "best") if row["step"]}
    assert kept(tmp_path / "best") == sorted({max(scores, key=lambda step: (scores[step], step)), 4})


def test_a_later_damaged_checkpoint_does_not_push_out_whole_ones(trained: Path, tmp_path: Path) -> None:
    """With `keep = 1` the newest by number would be the damaged one."""
    shutil.copytree(trained, tmp_path / "r", symlinks=True)
    directory = tmp_path / "r" / "checkpoints"
    (directory / "step-2").rename(directory / "step-9")
    (directory / "step-9" / "config.json").unlink()
    run_it(tmp_path / "r", **{**RUN, "steps": 2, "checkpoint__keep": 1})
    found = manifest.newest(directory)
    assert found is not None
    assert found.name == "step-2"
