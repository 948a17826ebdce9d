"""A model that cannot fit is refused before it loads, with the arithmetic; what may fit is let through."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import BASE
from runs import recipe as toy_recipe

from sieverl.distributed.world import World
from sieverl.errors import UsageError
from sieverl.planning.check import check_memory, count_parameters, model_size, surely_needed
from sieverl.planning.shape import BUILT_IN
from sieverl.recipe import build
from sieverl.training import memory
from sieverl.training.setup import prepare

SEVEN = BUILT_IN["Qwen2.5-7B"]


def never() -> float:
    raise AssertionError("nothing to ask for a small model")


def needed(ranks: int = 1, **changes: object) -> float:
    recipe = build({}, {key.replace("__", "."): value for key, value in changes.items()})
    return sum(surely_needed(recipe, SEVEN.parameters, SEVEN, ranks).values())


def test_the_shipped_model_costs_no_question() -> None:
    check_memory(build({}), str(BASE), 1, 1, never, "this machine")


def test_the_refusal_has_the_arithmetic_and_the_ways_out() -> None:
    recipe = build({"model": {"path": "Qwen/Qwen2.5-7B"}})
    with pytest.raises(UsageError) as error:
        check_memory(recipe, "Qwen/Qwen2.5-7B", 1, 1, lambda: 80e9, "its GPU")
    text = str(error.value)
    assert "parameters 30.5 + gradients 30.5 + optimiser state 60.9 = 121.8 GB" in text
    assert "its GPU has 80.0 GB free" in text
    for way in ("sieverl plan", "--distributed.strategy fsdp", "--model.lora.rank", "--distributed.check_memory false"):
        assert way in text
    check_memory(recipe, "Qwen/Qwen2.5-7B", 1, 1, lambda: 122e9, "its GPU")
    with pytest.raises(UsageError, match=r"times 2 processes that share it = 243.7 GB"):
        check_memory(recipe, "Qwen/Qwen2.5-7B", 2, 2, lambda: 122e9, "this machine")


def test_only_what_is_sure_is_counted() -> None:
    n = SEVEN.parameters
    assert needed() == 16 * n
    assert needed(dtype="float64") == 32 * n
    assert needed(ranks=8, distributed__strategy="fsdp") == pytest.approx(12 * n / 8 + 4 * n, rel=1e-6)
    assert needed(ranks=8, distributed__strategy="fsdp", dtype="bfloat16") == pytest.approx(
        12 * n / 8 + 2 * n, rel=1e-6
    )
    assert needed(distributed__strategy="fsdp") == 16 * n, "one process has nothing to shard with"
    assert needed(model__lora__rank=32) == pytest.approx(4 * n + 16 * SEVEN.adapters(32))
    assert needed(model__lora__rank=32, model__quantization="nf4") < 9.5e9


def test_a_model_of_unknown_size_is_let_through(tmp_path: Path) -> None:
    check_memory(build({}), "nobody/nothing", 1, 1, never, "this machine")
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    assert count_parameters(tmp_path) == 0
    assert model_size(str(tmp_path)) is None


def test_parameters_are_counted_from_the_headers() -> None:
    from sieverl.model.load import load_model

    assert count_parameters(BASE) == load_model(str(BASE)).num_parameters()


def test_training_asks_before_anything_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = toy_recipe(tmp_path / "run", model__path="Qwen/Qwen2.5-72B")
    monkeypatch.setattr(memory, "free_bytes", lambda device: 1e10)
    with pytest.raises(UsageError, match="does not fit"):
        prepare(recipe, say=lambda text: None)
    assert not (tmp_path / "run").exists()
    off = recipe.model_copy(update={"distributed": recipe.distributed.model_copy(update={"check_memory": False})})
    memory.check_fits(off, World())
    assert memory.free_bytes("cpu") > 0
