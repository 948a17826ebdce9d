"""One token from logits: inverse CDF of a given uniform, and its log-probability at the sampling temperature.

Legend: B live sequences, V vocabulary.
"""

from __future__ import annotations

import torch

from sieverl.engines.protocol import SamplingParams
from sieverl.model.shapes import FloatB, FloatBV, IntB

CHUNK_BYTES = 64 << 20  # float64 cumulative sums held at a time


def sample_token(logits_BV: FloatBV, uniform_B: FloatB, sampling: SamplingParams) -> tuple[IntB, FloatB]:
    """Token ids, int64 [B], and their log-probs in nats, [B], in float32 (float64 for float64 logits).

    Greedy at temperature 0, with log-probs at temperature 1. The same uniform always gives the same token for the same
    logits, whatever else is in the batch.

    >>> logits, uniform = torch.zeros(1, 4), torch.tensor([0.6], dtype=torch.float64)
    >>> tokens, logp = sample_token(logits, uniform, SamplingParams(1, (0,)))
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


def _inverse_cdf(logp_BV: FloatBV, uniform_B: FloatB) -> IntB:
    cdf_BV = logp_BV.exp().cumsum(-1, dtype=torch.float64)
    target_B1 = uniform_B[:, None] * cdf_BV[:, -1:]
    return torch.searchsorted(cdf_BV, target_B1, right=True)[:, 0].clamp(max=cdf_BV.shape[1] - 1)


def restrict(logits_BV: FloatBV, top_k: int, top_p: float) -> FloatBV:
    """The logits with all but some tokens at -inf: the `top_k` most likely (0: all), and of these the smallest set
    whose probability reaches `top_p`.

    >>> restrict(torch.tensor([[1.0, 3.0, 2.0]]), 2, 1.0).tolist()
    [[-inf, 3.0, 2.0]]
    """
    if top_k:
        floor_B1 = logits_BV.topk(min(top_k, logits_BV.shape[-1]), -1).values[:, -1:]
        logits_BV = logits_BV.masked_fill(logits_BV < floor_B1, -torch.inf)
    if top_p < 1:
        ordered, index = logits_BV.sort(-1, descending=True)
        before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
        ordered = ordered.masked_fill(before >= top_p, -torch.inf)
        logits_BV = torch.empty_like(logits_BV).scatter_(-1, index, ordered)
    return logits_BV
