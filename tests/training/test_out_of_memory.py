"""A run whose learner runs out of memory goes on with smaller micro-batches, says so, and resumes with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import NOT_EVALUATED, recipe, run_it, same_run

from sieverl.engines.builtin import BuiltinEngine
from sieverl.engines.protocol import Request
from sieverl.errors import UsageError
from sieverl.model.policy import Policy
from sieverl.recipe import load
from sieverl.training.loop import train
from sieverl.training.memory import with_halved
from sieverl.training.setup import prepare
from sieverl.types import Metrics, Note

SETTINGS: dict[str, Any] = {**NOT_EVALUATED, "algorithm": "reinforce", "steps": 3}


def test_a_run_goes_on_with_half_and_writes_it_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[list[str]] = []
    run = prepare(recipe(tmp_path / "run", **SETTINGS, train__micro_batch_tokens=512), say=lambda text: None)
    forward = Policy.response_hidden

    def limited(policy: Policy, packed: Any) -> torch.Tensor:
        if run.state.step == 1 and len(packed.ids_P) > 256 // 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        hidden: torch.Tensor = forward(policy, packed)
        return hidden

    def on_row(row: Metrics, notes: list[Note]) -> None:
        said.append([note.text for note in notes if "out of memory" in note.text])

    monkeypatch.setattr(Policy, "response_hidden", limited)
    with run:
        train(run, on_row)  # type: ignore[arg-type]
    rows = run.metrics.rows()
    assert [bool(row.get("memory/halved")) for row in rows] == [False, False, True, False]
    kept = load(run.run_dir / "recipe.toml").train.micro_batch_tokens
    assert kept < 512
    assert said == [[], [], [f"out of memory: from now on train.micro_batch_tokens = {kept}"], []]

    again = run_it(tmp_path / "run", **{**SETTINGS, "steps": 4}, train__micro_batch_tokens=512)
    assert again.learner.budget.tokens == kept, "the command that began the run resumes it"
    assert again.state.step == 4


def test_an_engine_goes_on_with_half_and_writes_it_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = prepare(recipe(tmp_path / "run", **SETTINGS, rollout__max_num_seqs=16), say=lambda text: None)
    whole = run_it(tmp_path / "whole", **SETTINGS, rollout__max_num_seqs=16)
    prefill, said = BuiltinEngine._prefill, list[str]()

    def limited(engine: BuiltinEngine, requests: Sequence[Request], cache: Any) -> Any:
        if run.state.step >= 1 and sum(request.samples for request in requests) > 8:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return prefill(engine, requests, cache)

    monkeypatch.setattr(BuiltinEngine, "_prefill", limited)
    with run:
        train(run, lambda row, notes: said.extend(note.text for note in notes if "out of memory" in note.text))
    assert said == ["out of memory: from now on rollout.max_num_seqs = 8"]
    assert [row.get("memory/engine_halved") for row in run.metrics.rows()] == [None, 0, 1, 0]
    same_run(run.run_dir, whole.run_dir)
    told: list[str] = []
    again = prepare(recipe(run.run_dir, **{**SETTINGS, "steps": 4}, rollout__max_num_seqs=16), say=told.append)
    with again:
        assert getattr(again.engine, "max_num_seqs") == 8  # noqa: B009 (not every engine has it)
    assert any(text.startswith("rollout.max_num_seqs is 8, the smaller value in") for text in told)


def test_smaller_batches_by_hand_resume(tmp_path: Path) -> None:
    """They were refused as another recipe."""
    run_it(tmp_path / "run", **SETTINGS)
    again = run_it(tmp_path / "run", **{**SETTINGS, "steps": 4}, train__micro_batch_tokens=64, rollout__max_num_seqs=4)
    assert (again.learner.budget.tokens, getattr(again.engine, "max_num_seqs")) == (64, 4)  # noqa: B009
    assert [row["step"] for row in again.metrics.rows()] == [0, 1, 2, 3, 4]


def test_a_new_run_takes_nothing_from_an_old_one(tmp_path: Path) -> None:
    settings, said = recipe(tmp_path / "run"), list[str]()
    assert with_halved(settings, "auto", said.append) == settings
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.toml").write_text("[train]\nmicro_batch_tokens = 9\n")
    assert with_halved(settings, "never", said.append) == settings
    assert said == []
    assert with_halved(settings, "auto", said.append).train.micro_batch_tokens == 9
    assert len(said) == 1
    assert said[0].startswith("train.micro_batch_tokens is 9, the smaller value in")


def test_another_lack_of_memory_ends_the_run_with_a_message(tmp_path: Path) -> None:
    run = prepare(recipe(tmp_path / "run", **SETTINGS), say=lambda text: None)

    def never(*args: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    run.learner.policy = replace(run.learner.policy)
    run.learner._forward = never  # type: ignore[method-assign, assignment]
    with run, pytest.raises(UsageError, match="one response in a forward"):
        train(run)
