"""What SieveRL computes itself equals the model: packed tokens, fused decode steps, norms, attention."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch
from conftest import FAMILIES
from toys import group

from sieverl.engines.builtin import BuiltinEngine
from sieverl.engines.decode_step import fused_step, fused_step_agrees
from sieverl.engines.kv_cache import KVCache
from sieverl.engines.protocol import Request, SamplingParams
from sieverl.model import attention
from sieverl.model.norm import rms_norm
from sieverl.model.packed import Response, layout
from sieverl.model.policy import Policy

PACKED = {"llama", "qwen2", "qwen3", "gemma3_text", "mistral", "phi", "phi3", "granite", "gpt_neox"}
FUSED = {"llama", "qwen2", "qwen3", "granite"}
CPU = torch.device("cpu")


def alone(policy: Policy, samples: list[Response]) -> torch.Tensor:
    """Hidden states that predict each response token, one plain forward of the model a sample."""
    parts = []
    for s in samples:
        hidden = policy.decoder(torch.tensor([[*s.prompt_tokens, *s.response_tokens]])).last_hidden_state[0]
        parts.append(hidden[len(s.prompt_tokens) - 1 : -1])
    return torch.cat(parts)


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_hidden_states_and_gradients_equal_those_of_each_sample_alone(random_model, family):
    model = random_model(family, torch.float64)
    policy, samples = Policy(model, None), group()
    packed = layout(samples, CPU)
    assert policy.can_pack == (family in PACKED)
    assert len(packed.blocks.shapes) > 2
    assert len(packed.ids_P) == 11 + sum(len(s.response_tokens) - 1 for s in samples)
    ours, theirs = policy.response_hidden(packed), alone(policy, samples)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)  # some families' norms round to float32
    grads = []
    for hidden in (ours, theirs):
        model.zero_grad()
        hidden.square().sum().backward()
        grads.append(torch.cat([p.grad.flatten() for p in policy.decoder.parameters() if p.grad is not None]))
    torch.testing.assert_close(*grads, rtol=1e-5, atol=1e-5)


def test_padded_sequences_give_the_same_hidden_states(random_model):
    policy, samples = Policy(random_model("llama", torch.float64), None), group()
    packed = layout(samples, CPU)
    expected = policy.response_hidden(packed)
    policy.can_pack = False
    torch.testing.assert_close(policy.response_hidden(packed), expected)


def test_a_family_with_other_attention_does_not_pack(random_model):
    model = random_model("llama")
    model.set_attn_implementation("eager")
    assert not Policy(model, None).can_pack


def test_bfloat16_packs_and_its_gradients_reach_float32_weights(random_model):
    model = random_model("llama")
    policy, samples = Policy(model, None, torch.bfloat16), group()
    hidden = policy.response_hidden(layout(samples, CPU))
    assert hidden.dtype == torch.bfloat16
    exact = alone(Policy(model, None), samples).detach()
    assert float((hidden.detach() - exact).norm() / exact.norm()) < 0.05
    hidden.float().square().sum().backward()
    used = dict(policy.decoder.named_parameters())
    assert all(p.grad is not None and p.grad.dtype == p.dtype == torch.float32 for p in used.values())


def test_bfloat16_copies_are_gone_afterwards_even_after_an_error(random_model):
    model = random_model("llama")
    before = dict(model.named_parameters())
    policy = Policy(model, None, torch.bfloat16)
    with contextlib.suppress(RuntimeError), policy.in_compute_dtype():
        assert {p.dtype for p in model.state_dict().values()} == {torch.bfloat16}
        raise RuntimeError
    assert all(p is before[name] for name, p in model.named_parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_fused_decode_step_is_used_where_it_agrees(random_model, family):
    policy = Policy(random_model(family), None, torch.bfloat16)
    assert (BuiltinEngine(policy).decoding == "fused") == (family in FUSED)
    assert fused_step_agrees(policy) or family not in FUSED


def test_a_factor_that_the_fused_step_lacks_is_noticed(random_model):
    policy = Policy(random_model("granite", residual_multiplier=0.5), None)
    assert fused_step(policy) is not None
    assert not fused_step_agrees(policy)
    assert BuiltinEngine(policy).ways.why == "no fused decode step for granite with residual_multiplier = 0.5"


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
@pytest.mark.parametrize("family", sorted(FUSED))
def test_fused_and_plain_steps_sample_the_same(random_model, family, dtype):
    """Prompts of two lengths, so that sequences are padded to the left; over 64 tokens, so that the cache grows."""
    double = dtype == "float64"
    model = random_model(family, torch.float64 if double else torch.float32)
    policy = Policy(model, None, torch.float64 if double else torch.bfloat16)
    engine = BuiltinEngine(policy)
    requests = [Request(0, [5, 6, 7], 3, seed=1), Request(1, [8, 9, 10, 11, 12], 3, seed=1)]
    found = []
    for engine.decoding in ("fused", "batched"):
        found.append(engine.sample(requests, SamplingParams(90, (96,))))
    if double:
        assert [r.tokens for r in found[0]] == [r.tokens for r in found[1]]
    for a, b in zip(*found, strict=True):
        first = next((i for i, pair in enumerate(zip(a.tokens, b.tokens, strict=False)) if pair[0] != pair[1]), 90)
        ours, theirs = (np.array(r.logp[:first]) for r in (a, b))
        assert np.abs(ours - theirs).mean() < (1e-6 if double else 0.05) if first else not double


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_causal_attention(dtype, window):
    g = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, n, 9, 4, generator=g, dtype=torch.float64) for n in (6, 2, 2))
    parts = [x.to(dtype).requires_grad_() for x in (query, key, value)]
    out = attention.causal(parts[0], parts[1], parts[2], 0.5, window)
    exact = [x.detach().double().requires_grad_() for x in parts]
    wide = [x.repeat_interleave(3, 1) for x in exact[1:]]
    score = exact[0] @ wide[0].transpose(2, 3) * 0.5
    distance = torch.arange(9)[:, None] - torch.arange(9)
    score = score.masked_fill((distance < 0) | (distance >= (window or 9)), -torch.inf)
    expected = score.softmax(-1) @ wide[1]
    near = 1e-10 if dtype == torch.float64 else 0.05
    torch.testing.assert_close(out.double(), expected, rtol=near, atol=near)
    weight = torch.randn(out.shape, generator=g, dtype=torch.float64).to(dtype)
    out.backward(weight)
    expected.backward(weight.double())
    for ours, theirs in zip(parts, exact, strict=True):
        assert ours.grad is not None
        torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=near, atol=near)


def test_eager_causal_attention_is_exact():
    query, key, value = (torch.randn(2, n, 5, 3, dtype=torch.float64, requires_grad=True) for n in (4, 2, 2))
    assert torch.autograd.gradcheck(attention.EagerCausalAttention.apply, (query, key, value))


def test_norm_is_exact():
    x = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(5, dtype=torch.float64, requires_grad=True)
    expected = x / (x.square().mean(-1, keepdim=True) + 1e-3).sqrt() * weight
    torch.testing.assert_close(rms_norm(x, weight, 1e-3), expected)
    assert torch.autograd.gradcheck(lambda x, w: rms_norm(x, w, 1e-3), (x, weight))


def test_the_cache_grows_and_new_positions_are_zero():
    cache = KVCache()
    cache.update(torch.ones(2, 1, 3, 4), torch.ones(2, 1, 3, 4), 0)
    assert cache.reserve(3) >= 3
    assert cache.reserve(200) >= 200
    assert cache.layers[0].keys[:, :, 3:].abs().sum() == 0
    assert cache.layers[0].keys[:, :, :3].sum() == 24
