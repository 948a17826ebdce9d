"""Attention without wasted work: of one new token a sequence when decoding, of packed tokens when learning.

Registered with transformers as `sieverl`; all other cases go to its scaled-dot-product attention. Packed tokens hold a
prompt once for all of its responses; `AttentionBlocks` says which tokens each response attends to. Legend: B sequences,
H heads, K key/value heads, G = H / K, Q queries, L positions, D head size, P packed tokens, N positions of all
sequences (padding included).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from sieverl.model import families
from sieverl.model.types import CausalModel, Context

NAME = "sieverl"
PLAIN = {"position_ids", "use_cache", "output_attentions", "is_causal"}  # change nothing here: the mask decides
SHORT = 1024  # positions up to which bfloat16 on a CPU stores all attention weights, [L, L]


@dataclass(frozen=True)
class AttentionBlocks:
    """Sequences that attend to themselves, in blocks of similar lengths; `shapes` are the (B, L) of the blocks.

    The positions of all blocks are numbered one after the other: `token_N` is the packed token at each position,
    `position_P` one such position of each packed token.
    """

    token_N: Tensor
    position_P: Tensor
    shapes: list[tuple[int, int]]


def attention(  # many parameters: the signature is that of an attention function of transformers
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    attention_blocks: AttentionBlocks | None = None,
    **more: object,
) -> tuple[Tensor, None]:
    """Attention of `query` [B, H, Q, D] over `key`, `value` [B, K, L, D], as [B, Q, H, D].

    Raises a NotImplementedError for packed tokens with options that only other attention functions have.
    """
    special = [k for k, v in more.items() if v is not None and k not in PLAIN]
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if attention_blocks is not None:
        if special:
            raise NotImplementedError(f"packed attention with {special}")
        return packed(query, key, value, attention_blocks, scale, sliding_window), None
    if query.shape[2] == 1 and not torch.is_grad_enabled() and not special and query.device.type == "cpu":
        return decoding(query, key, value, attention_mask, scale), None
    more |= {"dropout": dropout, "scaling": scaling, "sliding_window": sliding_window}
    out: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **more)
    return out


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


def use(model: CausalModel) -> bool:
    """Make `model` use this attention in place of scaled-dot-product attention; whether it does.

    Unknown model types are left unchanged. Scaled-dot-product attention has no soft cap of the scores (Gemma 2), and
    transformers leaves the cap out there: such a model gets eager attention.
    """
    chosen = getattr(model.config, "_attn_implementation", None)
    if chosen == "sdpa" and getattr(model.config, "attn_logit_softcapping", None):
        model.set_attn_implementation("eager")
    elif chosen == "sdpa" and families.own_attention(model.config):
        model.set_attn_implementation(NAME)
    return getattr(model.config, "_attn_implementation", None) == NAME


def decoding(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """Attention of one query a sequence, [B, H, 1, D], as [B, 1, H, D].

    The G heads of a group are computed together, so that keys and values are never copied (R = B K). `mask` is
    [B, 1 or H, 1, L]. Values may have another size than keys (DeepSeek).
    """
    batch, heads, _, size = query.shape
    query_RGD, key_RLD, value_RLD = (query * scale).reshape(batch * key.shape[1], -1, size), _flat(key), _flat(value)
    score_BHL = torch.bmm(query_RGD, key_RLD.transpose(1, 2)).view(batch, heads, -1)
    if mask is not None:
        mask = mask[:, :, 0, : key.shape[2]]
        score_BHL = score_BHL.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else score_BHL + mask
    weight_RGL = score_BHL.softmax(-1).view(query_RGD.shape[0], -1, key.shape[2])
    return torch.bmm(weight_RGL, value_RLD).view(batch, 1, heads, value.shape[-1])


def packed(
    query: Tensor, key: Tensor, value: Tensor, blocks: AttentionBlocks, scale: float, window: int | None
) -> Tensor:
    """Causal attention of packed tokens, [1, H or K, P, D], within each sequence: [1, P, H, D]."""
    sizes = [b * n for b, n in blocks.shapes]
    split = (x[0].transpose(0, 1).index_select(0, blocks.token_N).split(sizes) for x in (query, key, value))
    out = []
    for shape, *parts in zip(blocks.shapes, *split, strict=True):
        query_BHLD, key_BKLD, value_BKLD = (x.view(*shape, *x.shape[1:]).transpose(1, 2) for x in parts)
        out_BHLD = causal(query_BHLD, key_BKLD, value_BKLD, scale, window)
        out.append(out_BHLD.transpose(1, 2).flatten(0, 1))
    return torch.cat(out).index_select(0, blocks.position_P)[None]


def causal(query: Tensor, key: Tensor, value: Tensor, scale: float, window: int | None) -> Tensor:
    """Causal attention, [B, H, L, D], within a `window` of positions where one is given."""
    length = query.shape[2]
    near = None
    if window is not None and length > window:
        distance = torch.arange(length, device=query.device)
        distance = distance[:, None] - distance
        near = (distance >= 0) & (distance < window)
    if near is None and query.dtype == torch.bfloat16 and query.device.type == "cpu" and length <= SHORT:
        return EagerCausalAttention.apply(query * scale, key, value)  # 2 to 4 times faster than the fused kernel there
    return torch.nn.functional.scaled_dot_product_attention(
        query, key, value, near, is_causal=near is None, scale=scale, enable_gqa=query.shape[1] != key.shape[1]
    )


class EagerCausalAttention(torch.autograd.Function):
    """Causal attention that saves its weights, [B K, G L, L], for the backward."""

    @staticmethod
    def forward(ctx: Context, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        batch, heads, length, size = query.shape
        query, key, value = query.reshape(-1, heads // key.shape[1] * length, size), *map(_flat, (key, value))
        weight = torch.bmm(query, key.transpose(1, 2))
        future = torch.full((length, length), -torch.inf, dtype=query.dtype).triu_(1)
        weight.view(-1, length, length).add_(future)
        weight = weight.softmax(-1)
        ctx.save_for_backward(query, key, value, weight)
        return torch.bmm(weight, value).view(batch, heads, length, -1)

    @staticmethod
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value, weight = ctx.saved_tensors
        batch, heads, length, _ = grad.shape
        grad = grad.reshape(*query.shape[:2], -1)
        grad_value = torch.bmm(weight.transpose(1, 2), grad)
        grad_weight = torch.bmm(grad, value.transpose(1, 2))
        grad_score = torch.ops.aten._softmax_backward_data(grad_weight, weight, -1, weight.dtype)
        grad_query = torch.bmm(grad_score, key)
        grad_key = torch.bmm(grad_score.transpose(1, 2), query)
        grad_query = grad_query.view(batch, heads, length, -1)
        grad_key = grad_key.view(batch, -1, length, key.shape[-1])
        return grad_query, grad_key, grad_value.view(batch, -1, length, value.shape[-1])


def _flat(x: Tensor) -> Tensor:
    return x.reshape(-1, *x.shape[2:])
