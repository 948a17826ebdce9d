"""Activation checkpointing: the same gradients to the bit, fewer bytes kept for the backward."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import pytest
import torch
from families import make
from toys import group

from sieverl.errors import UsageError
from sieverl.model.blocks import block_names, recompute
from sieverl.model.load import new_adapters
from sieverl.model.packed import layout
from sieverl.model.policy import Policy
from sieverl.model.types import as_module

# caches shared by layers, latent attention, experts, states, blocks of several kinds
FAMILIES = ("gemma3n", "gemma4", "deepseek_v3", "gpt_oss", "phimoe", "qwen3_next", "granitemoehybrid",
            "longcat_flash", "gpt2", "bloom", "llama tied")  # fmt: skip


def backward(policy: Policy) -> tuple[list[torch.Tensor], int]:
    """The gradients of a packed micro-batch, and the bytes that its forward keeps beside the weights."""
    as_module(policy.model).zero_grad()
    kept: dict[int, int] = {}
    weights = {p.untyped_storage().data_ptr() for p in policy.model.parameters()}

    def keep(x: torch.Tensor) -> torch.Tensor:
        if x.untyped_storage().data_ptr() not in weights:
            kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    packed = layout(group(), policy.device)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        logp_T, entropy_T = policy.logp(policy.response_hidden(packed), packed.target_T, 1.0, True)
    (logp_T.sum() + 0.1 * entropy_T.sum()).backward()
    grads = [torch.zeros(()) if p.grad is None else p.grad for p in policy.parameters.values()]
    return grads, sum(kept.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_gradients_are_the_same_bits_and_less_is_kept(random_model, dtype):
    model = random_model() if dtype != torch.float64 else random_model().double()
    plain, bytes_kept = backward(Policy(model, None, dtype))
    again, fewer = backward(Policy(model, None, dtype, activation_checkpointing=True))
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))
    assert fewer < bytes_kept / 2


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_other_families(family):
    model = make(family)
    if not block_names(model):
        with pytest.raises(UsageError, match="names no decoder blocks"):
            Policy(model, None, activation_checkpointing=True)
        return
    plain, bytes_kept = backward(Policy(model, None))
    again, fewer = backward(Policy(model, None, activation_checkpointing=True))
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))
    assert fewer < bytes_kept


def test_adapters_and_replicas(random_model):
    """LoRA; and a replica for another thread computes its own blocks again, not those of the first."""
    model = new_adapters(random_model(), 2, 16.0, "all-linear")
    policy = Policy(model, None, torch.bfloat16)
    plain, _ = backward(policy)
    as_module(model).zero_grad()
    replica = replace(policy, activation_checkpointing=True).replica()
    again, _ = backward(replica)
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))
    assert all(p.grad is None for p in as_module(model).parameters())


def test_without_gradients_a_block_is_computed_once(random_model):
    model = random_model()
    counted = []

    def note(path: str) -> AbstractContextManager[None]:
        counted.append(path)
        return nullcontext()

    recompute(model, note)
    with torch.no_grad():
        model(torch.arange(3, 9)[None])
    assert not counted
    model(torch.arange(3, 9)[None]).logits.sum().backward()
    assert sorted(counted) == ["model.layers.0", "model.layers.1"]
