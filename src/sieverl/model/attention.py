"""Attention over what is there: one new token a row when decoding, rows of their own length when learning.

Registered with transformers as `sieverl`; anything else goes to its own scaled-dot-product attention. Packed tokens
hold a prompt once for all of its responses; `Rows` says which tokens each response attends to. Legend: B rows, H heads,
K key/value heads, G = H / K heads a group, L columns, D head size, P packed tokens, N places of all rows (padding too).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from sieverl.model import families

NAME = "sieverl"
PLAIN = {"sliding_window", "position_ids", "use_cache", "output_attentions", "is_causal"}  # the mask says the rest
SHORT = 1024  # columns up to which bfloat16 keeps a whole square of attention weights on a CPU


@dataclass(frozen=True)
class Rows:
    """Rows that attend to themselves, in blocks of about one length: `shapes` of B and L, one block after the other.

    `index_N` is the packed token at each place, `place_P` a place of each packed token.
    """

    index_N: Tensor
    place_P: Tensor
    shapes: list[tuple[int, int]]


def attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    rows: Rows | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """Attention of `query` [B, H, Q, D] over `key`, `value` [B, K, L, D], as [B, Q, H, D]."""
    special = [k for k, v in more.items() if v is not None and k not in PLAIN]
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if rows is not None:
        if special:
            raise NotImplementedError(f"packed attention with {special}")
        return packed(query, key, value, rows, scale, more.get("sliding_window")), None
    if query.shape[2] == 1 and not torch.is_grad_enabled() and not special and query.device.type == "cpu":
        return decoding(query, key, value, attention_mask, scale), None
    out: tuple[Tensor, None] = sdpa_attention_forward(
        module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **more
    )
    return out


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


def use(model: Any) -> bool:
    """Make `model` use this attention where it would use scaled-dot-product attention; whether it does.

    A family that is not known stays as it is. A soft cap of the scores (Gemma 2) is unknown to scaled-dot-product
    attention, and transformers ignores it there: such a model computes its own eager attention.
    """
    chosen = getattr(model.config, "_attn_implementation", None)
    if chosen == "sdpa" and getattr(model.config, "attn_logit_softcapping", None):
        model.set_attn_implementation("eager")
    elif chosen == "sdpa" and families.own_attention(model.config):
        model.set_attn_implementation(NAME)
    return getattr(model.config, "_attn_implementation", None) == NAME


def decoding(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """The heads of a group together, so that keys and values are never copied (R = B K rows of both).

    `mask` is [B, 1 or H, 1, L]. Values may have another size than keys (DeepSeek).
    """
    rows, heads, _, size = query.shape
    query_RGD, key_RLD, value_RLD = (query * scale).reshape(rows * key.shape[1], -1, size), _flat(key), _flat(value)
    score_BHL = torch.bmm(query_RGD, key_RLD.transpose(1, 2)).view(rows, heads, -1)
    if mask is not None:
        mask = mask[:, :, 0, : key.shape[2]]
        score_BHL = score_BHL.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else score_BHL + mask
    weight_RGL = score_BHL.softmax(-1).view(query_RGD.shape[0], -1, key.shape[2])
    return torch.bmm(weight_RGL, value_RLD).view(rows, 1, heads, value.shape[-1])


def packed(query: Tensor, key: Tensor, value: Tensor, rows: Rows, scale: float, window: int | None) -> Tensor:
    """Causal attention of packed tokens, [1, H or K, P, D], row by row: [1, P, H, D]."""
    sizes = [b * n for b, n in rows.shapes]
    blocks = (x[0].transpose(0, 1).index_select(0, rows.index_N).split(sizes) for x in (query, key, value))
    out = []
    for shape, *parts in zip(rows.shapes, *blocks, strict=True):
        query_BHLD, key_BKLD, value_BKLD = (x.view(*shape, *x.shape[1:]).transpose(1, 2) for x in parts)
        out_BHLD = causal(query_BHLD, key_BKLD, value_BKLD, scale, window)
        out.append(out_BHLD.transpose(1, 2).flatten(0, 1))
    return torch.cat(out).index_select(0, rows.place_P)[None]


def causal(query: Tensor, key: Tensor, value: Tensor, scale: float, window: int | None) -> Tensor:
    """Causal attention, [B, H, L, D], within a `window` of columns where one is given."""
    columns = query.shape[2]
    near = None
    if window is not None and columns > window:
        distance = torch.arange(columns, device=query.device)
        distance = distance[:, None] - distance
        near = (distance >= 0) & (distance < window)
    if near is None and query.dtype == torch.bfloat16 and query.device.type == "cpu" and columns <= SHORT:
        return EagerCausalAttention.apply(query * scale, key, value)  # 2 to 4 times faster than the fused kernel there
    return torch.nn.functional.scaled_dot_product_attention(
        query, key, value, near, is_causal=near is None, scale=scale, enable_gqa=query.shape[1] != key.shape[1]
    )


class EagerCausalAttention(torch.autograd.Function):
    """Causal attention that keeps its weights, [B, K, G L, L], for the backward."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        batch, heads, columns, size = query.shape
        query, key, value = query.reshape(-1, heads // key.shape[1] * columns, size), *map(_flat, (key, value))
        weight = torch.bmm(query, key.transpose(1, 2))
        future = torch.full((columns, columns), -torch.inf, dtype=query.dtype).triu_(1)
        weight.view(-1, columns, columns).add_(future)
        weight = weight.softmax(-1)
        ctx.save_for_backward(query, key, value, weight)
        return torch.bmm(weight, value).view(batch, heads, columns, -1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value, weight = ctx.saved_tensors
        rows, heads, columns, _ = grad.shape
        grad = grad.reshape(*query.shape[:2], -1)
        grad_value = torch.bmm(weight.transpose(1, 2), grad)
        grad_weight = torch.bmm(grad, value.transpose(1, 2))
        grad_score = torch.ops.aten._softmax_backward_data(grad_weight, weight, -1, weight.dtype)
        grad_query = torch.bmm(grad_score, key)
        grad_key = torch.bmm(grad_score.transpose(1, 2), query)
        narrow = (rows, -1, columns)
        wide = grad_query.view(rows, heads, columns, -1)
        return wide, grad_key.view(*narrow, key.shape[-1]), grad_value.view(*narrow, value.shape[-1])


def _flat(x: Tensor) -> Tensor:
    return x.reshape(-1, *x.shape[2:])
