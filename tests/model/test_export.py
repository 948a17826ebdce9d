"""Weights under the names of a Hugging Face checkpoint, with LoRA adapters merged, left out or alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import BASE
from safetensors.torch import load_file

from sieverl.model.export import adapter_weights, checkpoint_weights
from sieverl.model.load import load_policy, load_tokenizer
from sieverl.model.policy import Policy
from sieverl.recipe import build


def shipped(rank: int) -> Policy:
    lora = build({"model": {"lora": {"rank": rank}}}).model.lora if rank else None
    return load_policy(str(BASE), load_tokenizer(str(BASE)), "float32", "cpu", None, lora, 0, None)


def test_names_and_tensors_are_those_of_the_checkpoint() -> None:
    policy, saved = shipped(0), load_file(BASE / "model.safetensors")
    exported = dict(checkpoint_weights(policy, policy.weights()))
    assert exported.keys() == saved.keys()
    assert all(torch.equal(x.float(), saved[name].float()) for name, x in exported.items())


def test_adapters_are_merged_as_peft_merges_them(tmp_path: Path) -> None:
    policy = shipped(4)
    with torch.no_grad():
        for p in policy.parameters.values():
            p.add_(torch.randn_like(p) * 0.1)
    saved = load_file(BASE / "model.safetensors")
    weights = policy.weights()
    without = dict(checkpoint_weights(policy, weights, merge=False))
    assert without.keys() == saved.keys()
    assert all(torch.equal(x.float(), saved[name].float()) for name, x in without.items())
    merged = dict(checkpoint_weights(policy, weights))
    policy.model.save_pretrained(tmp_path)
    adapters = load_file(tmp_path / "adapter_model.safetensors")
    ours = adapter_weights(weights)
    assert adapters.keys() == ours.keys()
    assert all(torch.equal(x, ours[name]) for name, x in adapters.items())
    expected = policy.model.merge_and_unload().state_dict()  # type: ignore[attr-defined]
    assert merged.keys() == saved.keys()
    for name, x in merged.items():
        torch.testing.assert_close(x, expected[name], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "phi3"])
def test_the_names_are_those_that_the_model_is_saved_under(
    family: str, random_model: Callable[..., Any], tmp_path: Path
) -> None:
    policy = Policy(random_model(family), None)
    policy.model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    exported = dict(checkpoint_weights(policy, policy.weights()))
    assert exported.keys() == saved.keys()


def test_experts_are_split_as_their_checkpoint_has_them(random_model: Callable[..., Any], tmp_path: Path) -> None:
    """In memory all experts of a layer are one tensor."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        "qwen3_moe", vocab_size=32, hidden_size=16, intermediate_size=16, moe_intermediate_size=8, num_experts=4,
        num_experts_per_tok=2, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2, head_dim=8,
    )  # fmt: skip
    policy = Policy(AutoModelForCausalLM.from_config(config), None)
    policy.model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    exported = dict(checkpoint_weights(policy, policy.weights()))
    assert exported.keys() == saved.keys() != policy.weights().keys()
    assert all(torch.equal(x, saved[name]) for name, x in exported.items())
