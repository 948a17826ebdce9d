"""The sizes of models: exact parameters, names, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import BASE

from sieverl.errors import UsageError
from sieverl.planning.shape import BUILT_IN, FAMILIES, cached_shape, find_shape, from_config, known_shape

SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def test_parameters_of_well_known_models_are_the_published_ones() -> None:
    published = {
        "Qwen2.5-0.5B": 494_032_768,
        "Qwen2.5-1.5B": 1_543_714_304,
        "Qwen2.5-7B": 7_615_616_512,
        "Qwen2.5-72B": 72_706_203_648,
        "Qwen3-8B": 8_190_735_360,
        "Llama-3-8B": 8_030_261_248,
        "Llama-3.2-1B": 1_235_814_400,
        "Llama-3-70B": 70_553_706_496,
    }
    assert {name: BUILT_IN[name].parameters for name in published} == published


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": True}, {"head_dim": 16}, {"attention_bias": True}])
def test_parameters_are_those_of_transformers(family: str, changes: dict[str, Any]) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(family, **{**SIZES, "tie_word_embeddings": False, **changes})
    if "head_dim" in changes and family == "qwen2":
        pytest.skip("qwen2 has no head_dim")
    if "attention_bias" in changes and not hasattr(config, "attention_bias"):
        pytest.skip(f"{family} has no attention_bias")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    table = {**json.loads(config.to_json_string(use_diff=False)), "model_type": family}
    assert from_config(table, family).parameters == model.num_parameters()


def test_names_of_the_hub_find_their_sizes() -> None:
    for name in ("Qwen/Qwen2.5-Math-7B", "qwen2.5-7b-instruct", "Qwen/Qwen2.5-Coder-7B-Instruct"):
        assert known_shape(name) is BUILT_IN["Qwen2.5-7B"]
    assert known_shape("meta-llama/Llama-3.2-1B-Instruct") is BUILT_IN["Llama-3.2-1B"]
    assert known_shape("Qwen/Qwen2.5-7B-Instruct-GPTQ") is None, "another thing with almost that name"


def test_a_directory_and_a_file_give_the_shape(tmp_path: Path) -> None:
    assert find_shape(str(BASE)).parameters == find_shape(str(BASE / "config.json")).parameters
    (tmp_path / "config.json").write_text("not json")
    with pytest.raises(UsageError, match=r"cannot read .*config.json"):
        find_shape(str(tmp_path))
    with pytest.raises(UsageError, match="cannot read"):
        find_shape(str(BASE.parent))
    assert cached_shape(str(tmp_path)) is None


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"model_type": "qwen3_moe", "num_experts": 128}, "mixture of experts .num_experts = 128"),
        ({"model_type": "llama", "num_local_experts": 8}, "mixture of experts"),
        ({"model_type": "mamba"}, "model_type 'mamba'.*it knows granite"),
        ({}, "model_type 'None'"),
        ({"model_type": "llama", **SIZES, "hidden_size": "32"}, "hidden_size = '32'; it must be a whole number"),
        ({"model_type": "llama", **SIZES, "vocab_size": 0}, "vocab_size = 0"),
    ],
)
def test_what_the_arithmetic_does_not_cover_is_refused(config: dict[str, object], expected: str) -> None:
    with pytest.raises(UsageError, match=expected):
        from_config(config, "m")


def test_a_hub_id_that_cannot_be_reached_says_how_to_give_the_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.utils

    def offline() -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub.utils, "get_session", offline)
    with pytest.raises(UsageError, match=r"Did you mean Qwen2.5-7B\? Give them with --model-shape: a config.json"):
        find_shape("Qwen2.5-7BB")
    assert cached_shape("nobody/nothing") is None
