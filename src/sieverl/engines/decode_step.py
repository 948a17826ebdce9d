"""One decoding step: a token for each live row in, the hidden state that predicts the next one out.

`plain` calls the model. `fused` writes the step of the Llama and Qwen families out: projections of one input together,
keys and values straight into the cache, a third of the operations. Legend: B rows, H heads, K key/value heads,
G = H / K, D head size, L columns in use; X is a hidden state's size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, pad, rms_norm

from sieverl.engines.kv_cache import LibraryCache, NoCache, RowCache
from sieverl.model import attention
from sieverl.model.policy import Policy

Step = Callable[[Tensor, Tensor, bool, Any], Tensor]
"""(token_B, start_B: columns of padding to the left, whether there are any, cache) -> hidden states [B, X].

More rows come out where the memory has more: finished ones, without meaning."""


def plain(policy: Policy) -> Step:
    """The step of any causal LM."""

    def step(token_B: Tensor, start_B: Tensor, padded: bool, cache: RowCache) -> Tensor:
        used = cache.get_seq_length()
        mask_BL = _seen(start_B, used, used + 1).long() if padded else None
        return policy.hidden(token_B[:, None], (used - start_B)[:, None], mask_BL, cache)[:, -1]

    return step


def library(policy: Policy) -> Step:
    """The step of any causal LM on the library's own memory, `LibraryCache`: no row has padding."""

    def step(token_B: Tensor, start_B: Tensor, padded: bool, cache: LibraryCache) -> Tensor:
        return cache.feed(policy, token_B[:, None])[:, -1]

    return step


def recompute(policy: Policy) -> Step:
    """The step of a family that keeps no memory: all tokens again."""

    def step(token_B: Tensor, start_B: Tensor, padded: bool, cache: NoCache) -> Tensor:
        cache.ids = torch.cat([cache.ids, token_B[:, None]], 1)
        return policy.hidden(cache.ids)[:, -1]

    return step


def _seen(start_B: Tensor, used: int, columns: int) -> Tensor:
    """Which columns hold keys of a row, the newest in column `used`, bool [B, columns]."""
    column_L = torch.arange(columns, device=start_B.device)
    return (column_L >= start_B[:, None]) & (column_L <= used)


def has_packed_gemm(dtype: torch.dtype) -> bool:
    """Whether this CPU has products with packed weights (oneDNN; bfloat16 needs AVX-512 or better)."""
    if not torch.backends.mkldnn.is_available():
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


@dataclass
class Projection:
    """Linear layers of one input as one, copied in the dtype of the forward.

    On a CPU the copy is in the order that its kernels read, which they would make anew for each product: a twentieth
    less time for 256 rows in bfloat16, a sixth in float32, half for 8.
    """

    weight: Tensor
    bias: Tensor | None

    @staticmethod
    def of(dtype: torch.dtype, *layers: Any) -> Projection:
        if not all(type(layer) is torch.nn.Linear for layer in layers):
            raise AttributeError("a layer that is more than a linear one")
        weight = torch.cat([layer.weight.to(dtype) for layer in layers])
        biases = [layer.bias for layer in layers if layer.bias is not None]
        if len(biases) not in (0, len(layers)):
            raise AttributeError("a bias for some of the projections")
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
    """A root-mean-square norm: PyTorch's own, which is quicker than `sieverl.norm` where there is no backward."""

    weight: Tensor
    eps: float

    @staticmethod
    def of(dtype: torch.dtype, module: Any) -> Norm:
        return Norm(module.weight.to(dtype), module.variance_epsilon)

    def __call__(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight.shape, self.weight, self.eps)


@dataclass
class Layer:
    """One decoder layer."""

    before: Norm
    qkv: Projection
    heads: list[Norm]  # of queries and keys, in Qwen3
    out: Projection
    between: Norm
    gate_up: Projection
    act: Callable[[Tensor], Tensor]
    down: Projection
    scale: float

    @staticmethod
    def of(dtype: torch.dtype, layer: Any) -> Layer:
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
def fused(policy: Policy) -> Step | None:
    """The step written out, on copies of the weights; None where the model has other parts."""
    decoder, config = policy.decoder, policy.causal.config
    dtype = torch.bfloat16 if policy.compute == torch.bfloat16 else policy.head.weight.dtype
    if not policy.own_attention or policy.model is not policy.causal:
        return None
    try:
        layers = [Layer.of(dtype, layer) for layer in decoder.layers]
        last, embed, rotary = Norm.of(dtype, decoder.norm), decoder.embed_tokens.weight.to(dtype), decoder.rotary_emb
    except AttributeError:
        return None
    narrow = config.num_key_value_heads
    heads = config.num_attention_heads + narrow  # of queries and keys

    def step(token_B: Tensor, start_B: Tensor, padded: bool, cache: RowCache) -> Tensor:
        used = cache.get_seq_length()
        token_B, start_B = (pad(x, (0, cache.rows - len(x))) for x in (token_B, start_B))
        whole = dtype == torch.bfloat16  # products of a part of the memory would copy it first
        columns = cache.reserve(used + 1) if whole else used + 1
        mask = _seen(start_B, used, columns)[:, None, None] if whole or padded else None
        x = torch.nn.functional.embedding(token_B, embed)
        cos, sin = rotary(x[:, None], (used - start_B)[:, None])
        half = sin.shape[-1] // 2
        sin = torch.cat((-sin[..., :half], sin[..., half:]), -1)  # rotating is rolling by half with these signs
        for layer, memory in zip(layers, cache.layers, strict=True):
            qkv = layer.qkv(layer.before(x)).view(len(x), heads + narrow, -1)
            qk, value = qkv[:, :heads], qkv[:, heads:]
            if layer.heads:
                parts = qk.split((heads - narrow, narrow), 1)
                qk = torch.cat([norm(part) for norm, part in zip(layer.heads, parts, strict=True)], 1)
            qk = torch.addcmul(qk * cos, qk.roll(half, -1), sin)
            query, key = qk[:, : heads - narrow], qk[:, heads - narrow :]
            memory.update(key[:, :, None], value[:, :, None])
            keys, values = memory.keys[:, :, :columns], memory.values[:, :, :columns]
            seen = attention.decoding(query[:, :, None], keys, values, mask, layer.scale)
            x = x + layer.out(seen.flatten(1))
            gate, up = layer.gate_up(layer.between(x)).chunk(2, -1)
            x = x + layer.down(layer.act(gate).mul_(up))
        return last(x)

    return step


@torch.no_grad()
def fuses(policy: Policy) -> bool:
    """Whether `fused` gives the model's own hidden states, tried in the dtype of its weights on a short prompt."""
    exact = replace(policy, compute=policy.head.weight.dtype)
    step = fused(exact)
    if step is None:
        return False
    ids = torch.arange(8, device=policy.device)[None] % policy.head.weight.shape[0]
    cache = RowCache()
    exact.hidden(ids[:, :-1], cache=cache)
    try:
        ours = step(ids[:, -1], torch.tensor([0], device=policy.device), False, cache)
    except (RuntimeError, TypeError, ValueError):  # other shapes than the written-out step has
        return False
    return torch.allclose(ours, exact.hidden(ids)[:, -1], atol=1e-3, rtol=1e-3)
