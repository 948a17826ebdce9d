"""One decode step: a token for each live sequence in, the hidden state that predicts the next one out.

`model_step` calls the model. `fused_step` computes the layers of the Llama and Qwen families itself: projections of one
input in one matrix multiplication, keys and values written straight into the cache, a third of the operations.
Legend: B sequences, H heads, K key/value heads, G = H / K, L positions in use, D size of a hidden state.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, pad, rms_norm

from sieverl.engines.kv_cache import DecodingCache, KVCache, attended
from sieverl.model import attention
from sieverl.model.norm import HasNorm
from sieverl.model.policy import Policy

Step = Callable[[Tensor, Tensor, bool, DecodingCache], Tensor]
"""(token_B, start_B: positions of left padding, whether any sequence has some, cache) -> hidden states [B, D].

If the cache also holds finished sequences, their rows follow, without meaning."""


def model_step(policy: Policy) -> Step:
    """The step of any causal LM: the model's own forward on whatever the cache holds."""

    def step(token_B: Tensor, start_B: Tensor, padded: bool, cache: DecodingCache) -> Tensor:
        return cache.feed(policy, token_B, start_B, padded)

    return step


def has_packed_gemm(dtype: torch.dtype) -> bool:
    """Whether this CPU multiplies with packed weights (oneDNN; bfloat16 needs AVX-512 or better)."""
    if not torch.backends.mkldnn.is_available():
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


@dataclass
class Projection:
    """Linear layers with the same input as one matrix multiplication, on a copy in the dtype of the forward.

    On a CPU the copy has the memory layout that the kernels read, which they would otherwise make at each call: 5%
    faster for 256 sequences in bfloat16, 17% in float32, twice as fast for 8.
    """

    weight: Tensor
    bias: Tensor | None

    @staticmethod
    def of(dtype: torch.dtype, *layers: torch.nn.Module) -> Projection:
        linears = [layer for layer in layers if type(layer) is torch.nn.Linear]
        if len(linears) < len(layers):
            raise AttributeError("a layer that is not a plain linear one")
        weight = torch.cat([layer.weight.to(dtype) for layer in linears])
        biases = [layer.bias for layer in linears if layer.bias is not None]
        if len(biases) not in (0, len(layers)):
            raise AttributeError("a bias for some of the projections only")
        if weight.device.type == "cpu" and has_packed_gemm(dtype):
            weight = torch.ops.mkldnn._reorder_linear_weight(weight)
        return Projection(weight, torch.cat([b.to(dtype) for b in biases]) if biases else None)

    def __call__(self, x: Tensor) -> Tensor:
        if self.weight.is_mkldnn:
            out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
            return out
        return linear(x, self.weight, self.bias)


@dataclass
class Norm:
    """A root-mean-square norm: PyTorch's own, which is faster than `sieverl.model.norm` without a backward."""

    weight: Tensor
    eps: float

    @staticmethod
    def of(dtype: torch.dtype, module: HasNorm) -> Norm:
        return Norm(module.weight.to(dtype), module.variance_epsilon)

    def __call__(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight.shape, self.weight, self.eps)


@dataclass
class Layer:
    """The parts of one decoder layer."""

    attention_norm: Norm
    qkv: Projection
    qk_norms: list[Norm]  # of queries and of keys, in Qwen3; else empty
    out: Projection
    mlp_norm: Norm
    gate_up: Projection
    act: Callable[[Tensor], Tensor]
    down: Projection
    scale: float

    @staticmethod
    def of(dtype: torch.dtype, layer: Any) -> Layer:
        """Those of a layer of any class; an AttributeError where it has others."""
        own, mlp = layer.self_attn, layer.mlp
        return Layer(
            Norm.of(dtype, layer.input_layernorm),
            Projection.of(dtype, own.q_proj, own.k_proj, own.v_proj),
            [Norm.of(dtype, norm) for norm in (own.q_norm, own.k_norm)] if hasattr(own, "q_norm") else [],
            Projection.of(dtype, own.o_proj),
            Norm.of(dtype, layer.post_attention_layernorm),
            Projection.of(dtype, mlp.gate_proj, mlp.up_proj),
            mlp.act_fn,
            Projection.of(dtype, mlp.down_proj),
            own.scaling,
        )


@torch.no_grad()
def fused_step(policy: Policy) -> Step | None:
    """The fused decode step, on copies of the weights; None where the model has other parts."""
    config, dtype = policy.causal.config, policy.head.weight.dtype
    dtype = torch.bfloat16 if policy.compute == torch.bfloat16 else dtype
    if not policy.own_attention or policy.model is not policy.causal:
        return None
    decoder: Any = policy.decoder
    try:
        layers = [Layer.of(dtype, layer) for layer in decoder.layers]
        last, embed, rotary = Norm.of(dtype, decoder.norm), decoder.embed_tokens.weight.to(dtype), decoder.rotary_emb
    except AttributeError:
        return None
    queries, keys = config.num_attention_heads, config.num_key_value_heads

    def step(token_B: Tensor, start_B: Tensor, padded: bool, cache: DecodingCache) -> Tensor:
        assert isinstance(cache, KVCache)
        used = cache.get_seq_length()
        token_B, start_B = (pad(x, (0, cache.sequences - len(x))) for x in (token_B, start_B))
        whole = dtype == torch.bfloat16  # multiplying with a part of the cache would copy it first
        positions = cache.reserve(used + 1) if whole else used + 1
        mask = attended(start_B, used, positions)[:, None, None] if whole or padded else None
        x = torch.nn.functional.embedding(token_B, embed)
        cos, sin = rotary(x[:, None], (used - start_B)[:, None])
        half = sin.shape[-1] // 2
        sin = torch.cat((-sin[..., :half], sin[..., half:]), -1)  # rotating is rolling by half with these signs
        for layer, kv in zip(layers, cache.layers, strict=True):
            qkv = layer.qkv(layer.attention_norm(x)).view(len(x), queries + 2 * keys, -1)
            qk, value = qkv[:, : queries + keys], qkv[:, queries + keys :]
            if layer.qk_norms:
                parts = qk.split((queries, keys), 1)
                qk = torch.cat([norm(part) for norm, part in zip(layer.qk_norms, parts, strict=True)], 1)
            qk = torch.addcmul(qk * cos, qk.roll(half, -1), sin)
            query, key = qk[:, :queries], qk[:, queries:]
            kv.update(key[:, :, None], value[:, :, None])
            seen_keys, seen_values = kv.keys[:, :, :positions], kv.values[:, :, :positions]
            mixed = attention.decoding(query[:, :, None], seen_keys, seen_values, mask, layer.scale)
            x = x + layer.out(mixed.flatten(1))
            gate, up = layer.gate_up(layer.mlp_norm(x)).chunk(2, -1)
            x = x + layer.down(layer.act(gate).mul_(up))
        return last(x)

    return step


@torch.no_grad()
def fused_step_agrees(policy: Policy) -> bool:
    """Whether `fused_step` gives the model's own hidden states, tried in the dtype of its weights on a short prompt."""
    exact = replace(policy, compute=policy.head.weight.dtype)
    step = fused_step(exact)
    if step is None:
        return False
    ids = torch.arange(8, device=policy.device)[None] % policy.head.weight.shape[0]
    cache = KVCache()
    exact.hidden(ids[:, :-1], cache=cache)
    try:
        ours = step(ids[:, -1], torch.tensor([0], device=policy.device), False, cache)
    except (RuntimeError, TypeError, ValueError):  # the model's tensors have other shapes
        return False
    return torch.allclose(ours, exact.hidden(ids)[:, -1], atol=1e-3, rtol=1e-3)
