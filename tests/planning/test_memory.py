"""Memory: hand-worked numbers, what grows and what must not, and a real model counted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import BASE
from plans import SETTING, WORK, fsdp, items, plan

from sieverl.planning.memory import activations, layer_activations, memory, peak, trained, weights
from sieverl.planning.plan import Plan
from sieverl.planning.shape import BUILT_IN, find_shape, from_config

SEVEN = BUILT_IN["Qwen2.5-7B"].parameters


def test_a_7b_with_adamw_in_float32_is_16_bytes_a_parameter() -> None:
    found = items(plan())
    states = found["parameters"] + found["gradients"] + found["optimiser state (Adam)"]
    assert states == 16 * SEVEN == 121_849_864_192
    assert found["bfloat16 copy of the weights"] == 2 * SEVEN


def test_fsdp_divides_the_states_and_not_what_is_gathered() -> None:
    one, eight = items(plan()), items(plan(setting=fsdp(8)))
    for name in ("parameters", "gradients", "optimiser state (Adam)"):
        assert eight[name] == one[name] / 8
    layer = BUILT_IN["Qwen2.5-7B"].layer_matrices
    assert eight["gathered weights"] == 2 * (2 * 152_064 * 3584 + 2 * layer)
    assert eight["engine weights"] > 2 * SEVEN, "to sample, all weights are gathered"
    assert items(plan(setting=replace(fsdp(64), shard=8)))["parameters"] == eight["parameters"]


def test_float64_and_a_critic_and_a_reference_count() -> None:
    assert items(plan(setting=replace(SETTING, dtype="float64")))["optimiser state (Adam)"] == 16 * SEVEN
    more = items(plan(work=replace(WORK, critic=True, reference=True)))
    assert more["critic (with its optimiser)"] == 16 * SEVEN
    assert more["reference model"] == 4 * SEVEN
    adapted = items(plan(setting=replace(SETTING, lora_rank=8), work=replace(WORK, reference=True)))
    assert "reference model" not in adapted, "adapters are turned off for it"


def test_adapters_and_nf4_by_hand() -> None:
    shape = from_config(
        {"model_type": "llama", "hidden_size": 4, "intermediate_size": 6, "num_hidden_layers": 1,
         "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 10}, "toy")  # fmt: skip
    # q 4x4, k and v 4x2, o 4x4, gate and up 4x6, down 6x4: in + out of each, times the rank
    assert shape.adapters(3) == 3 * (8 + 6 + 6 + 8 + 10 + 10 + 10) == trained(shape, replace(SETTING, lora_rank=3))
    assert shape.matrices == 16 + 8 + 8 + 16 + 24 * 3
    quantized = replace(SETTING, lora_rank=3, quantization="nf4")
    plain = 2 * 40 + 3 * 4  # embedding and output layer, norms
    assert weights(shape, quantized) == pytest.approx(120 * (0.5 + 0.127 / 8) + 4 * (plain + 174))


@pytest.mark.parametrize("name", ["Qwen2.5-1.5B", "Qwen2.5-7B", "Llama-3-70B"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_more_gpus_never_need_more_memory_of_one(name: str, checkpointing: bool) -> None:
    sizes = [
        plan(name, fsdp(gpus, activation_checkpointing=checkpointing)).peak for gpus in (2, 4, 8, 16, 64, 256, 1024)
    ]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize(
    "changes",
    [
        {"activation_checkpointing": True},
        {"cpu_offload": True},
        {"micro_batch_tokens": 2048},
        {"max_num_seqs": 16},
        {"lora_rank": 32},
    ],
)
def test_what_is_meant_to_save_memory_saves_it(changes: dict[str, Any]) -> None:
    setting = fsdp(8)
    assert sum(items(plan(setting=replace(setting, **changes))).values()) <= sum(items(plan(setting=setting)).values())
    assert plan(setting=replace(setting, **changes)).peak <= plan(setting=setting).peak


def test_offloaded_states_are_in_the_memory_of_the_host() -> None:
    one = plan(setting=fsdp(8, cpu_offload=True))
    assert one.host == 16 * SEVEN / 8
    assert one.peak < plan(setting=fsdp(8)).peak


def test_the_log_prob_head_does_not_grow_with_tokens_times_vocabulary() -> None:
    small, large = (items(plan(setting=replace(SETTING, micro_batch_tokens=n)))["log-prob head"] for n in (4096, 65536))
    assert large - small < 2 * (65536 - 4096) * 3584 * 2 + 1, "hidden states, no logits"
    assert large < 65536 * 152_064 * 4 / 4


def test_moments_are_not_added_up() -> None:
    one = plan()
    by = {item.name: item for item in one.items}
    both = sum(item.bytes for item in one.items)
    assert one.peak == peak(one.items) < both
    assert {by["activations"].when, by["KV cache"].when} == {"update", "generate"}


def saved_numbers(model: Any, tokens: int) -> int:
    """Numbers that autograd keeps for the backward of the decoder layers, parameters and repeats left out."""
    from sieverl.model.packed import Response, layout
    from sieverl.model.policy import Policy

    policy = Policy(model, None)
    assert policy.can_pack
    known = {p.untyped_storage().data_ptr() for p in model.parameters()}
    seen: dict[int, int] = {}
    alive = []

    def keep(x: torch.Tensor) -> torch.Tensor:
        place = x.untyped_storage().data_ptr()
        if x.is_floating_point() and place not in known:
            alive.append(x)
            seen[place] = x.untyped_storage().nbytes() // x.element_size()
        return x

    prompt = [1] * (tokens // 2)
    packed = layout([Response(prompt, [2] * (tokens - len(prompt) + 1))], policy.device)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        policy.response_hidden(packed)
    return sum(seen.values())


@pytest.mark.parametrize("family", ["qwen2", "llama", "qwen3"])
def test_activations_of_a_real_model_are_within_a_fifth(family: str) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"vocab_size": 64, "hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 4,
             "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32}  # fmt: skip
    config = AutoConfig.for_model(family, **sizes)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    shape = from_config({**sizes, "model_type": family}, family)
    tokens = 256
    assert tokens * 4 * layer_activations(shape) == pytest.approx(saved_numbers(model, tokens), rel=0.2)


def test_states_of_the_shipped_model_are_exact() -> None:
    from sieverl.model.load import load_model

    model = load_model(str(BASE))
    held = sum(p.numel() * p.element_size() for p in model.parameters())
    shape = find_shape(str(BASE))
    found = {item.name: item.bytes for item in memory(shape, replace(SETTING, dtype="float32"), WORK)}
    assert found["parameters"] == found["gradients"] == held
    moments = torch.optim.AdamW(list(model.parameters()))
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    moments.step()
    state = sum(t.numel() * t.element_size() for s in moments.state.values() for t in s.values() if t.numel() > 1)
    assert found["optimiser state (Adam)"] == state


def test_a_7b_trains_on_one_gpu_of_24_gb() -> None:
    setting = replace(SETTING, lora_rank=32, quantization="nf4", activation_checkpointing=True, max_num_seqs=32)
    assert plan(setting=setting, gpu="RTX4090").fits
    assert not plan(setting=replace(setting, quantization=""), gpu="RTX4090").fits, "LoRA keeps float32 weights"
    assert activations(BUILT_IN["Qwen2.5-7B"], 4096, setting) < 2e9
    assert isinstance(plan(), Plan)
