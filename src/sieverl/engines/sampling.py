"""One token from logits: inverse CDF of a given uniform, and its log-probability at the sampling temperature."""

from __future__ import annotations

import torch
from torch import Tensor

from sieverl.engines.protocol import SamplingParams

CHUNK_BYTES = 64 << 20  # float64 cumulative sums are taken over so many rows at a time


def draw(logits_BV: Tensor, uniform_B: Tensor, sampling: SamplingParams) -> tuple[Tensor, Tensor]:
    """Token ids, int64 [B], and their log-probs, [B], in float32 (float64 for float64 logits).

    Greedy at temperature 0, with log-probs at temperature 1. The same uniform always gives the same token for the same
    logits, whatever else is in the batch.

    >>> tokens, logp = draw(torch.zeros(1, 4), torch.tensor([0.6], dtype=torch.float64), SamplingParams(1, (0,)))
    >>> tokens.item(), round(logp.exp().item(), 6)
    (2, 0.25)
    """
    logits_BV = logits_BV if logits_BV.dtype == torch.float64 else logits_BV.float()
    if sampling.temperature == 0:
        logp_BV = logits_BV.log_softmax(-1)
        logp_B, token_B = logp_BV.max(-1)
        return token_B, logp_B
    if sampling.temperature != 1:
        logits_BV = logits_BV / sampling.temperature
    if sampling.top_k or sampling.top_p < 1:
        logits_BV = restrict(logits_BV, sampling.top_k, sampling.top_p)
    logp_BV = logits_BV.log_softmax(-1)
    rows = max(1, CHUNK_BYTES // (8 * logits_BV.shape[-1]))
    tokens = [
        _inverse_cdf(logp_BV[i : i + rows], uniform_B[i : i + rows]) for i in range(0, max(1, len(logp_BV)), rows)
    ]
    token_B = torch.cat(tokens)
    return token_B, logp_BV.gather(1, token_B[:, None])[:, 0]


def _inverse_cdf(logp_BV: Tensor, uniform_B: Tensor) -> Tensor:
    cdf_BV = logp_BV.exp().cumsum(-1, dtype=torch.float64)
    target_B1 = uniform_B[:, None] * cdf_BV[:, -1:]
    return torch.searchsorted(cdf_BV, target_B1, right=True)[:, 0].clamp(max=cdf_BV.shape[1] - 1)


def restrict(logits_BV: Tensor, top_k: int, top_p: float) -> Tensor:
    """Only the `top_k` most likely tokens, and of these the smallest set whose probability reaches `top_p`."""
    if top_k:
        floor_B1 = logits_BV.topk(min(top_k, logits_BV.shape[-1]), -1).values[:, -1:]
        logits_BV = logits_BV.masked_fill(logits_BV < floor_B1, -torch.inf)
    if top_p < 1:
        ordered, index = logits_BV.sort(-1, descending=True)
        before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
        ordered = ordered.masked_fill(before >= top_p, -torch.inf)
        logits_BV = torch.empty_like(logits_BV).scatter_(-1, index, ordered)
    return logits_BV
