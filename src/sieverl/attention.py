"""Attention for decoding: one new token a row, the heads of a group together, so that keys and values are never copied.

Registered with transformers as `sieverl`; anything but plain decoding goes to its own scaled-dot-product attention.
Legend: B rows, H heads, K key/value heads, G = H / K heads a group, L columns in use, D head size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "sieverl"
PLAIN = {"sliding_window", "position_ids", "use_cache", "output_attentions", "is_causal"}  # the mask says the rest


def decoding_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """Attention of `query` [B, H, Q, D] over `key`, `value` [B, K, L, D], as [B, Q, H, D]."""
    special = any(v is not None for k, v in more.items() if k not in PLAIN)
    if query.shape[2] != 1 or torch.is_grad_enabled() or special or query.device.type != "cpu":
        out: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **more
        )
        return out
    rows, heads, _, size = query.shape
    query_BKGD = query.reshape(rows, key.shape[1], heads // key.shape[1], size)
    query_BKGD = query_BKGD * (size**-0.5 if scaling is None else scaling)
    score_BKGL = query_BKGD @ key.transpose(2, 3)
    score_BKGL = score_BKGL if score_BKGL.dtype == torch.float64 else score_BKGL.float()
    if attention_mask is not None:
        mask = attention_mask[:, :, :, : key.shape[2]]
        score_BKGL = score_BKGL.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else score_BKGL + mask
    weight_BKGL = score_BKGL.softmax(-1).to(value.dtype)
    return (weight_BKGL @ value).reshape(rows, 1, heads, size), None


AttentionInterface.register(NAME, decoding_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


def use(model: Any) -> None:
    """Make `model` decode with this attention where it would use scaled-dot-product attention."""
    if getattr(model.config, "_attn_implementation", None) == "sdpa":
        model.set_attn_implementation(NAME)
