"""KL divergence between two policies, exact over the vocabulary. Legend: T response tokens, V vocabulary."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sieverl.distributed.world import World
from sieverl.learner.batches import Sample, micro_batches
from sieverl.model.logprobs import chunks
from sieverl.model.packed import layout
from sieverl.model.policy import Policy


@torch.no_grad()
def exact_kl(policy: Policy, reference: Policy, samples: Sequence[Sample], budget: int, world: World) -> float:
    """KL(policy || reference), exact over the vocabulary at each response token, mean over tokens of all ranks."""
    total = tokens = 0.0
    for group in micro_batches(samples, budget):
        where = layout([samples[i] for i in group], policy.device)
        hidden = [p.response_hidden(where) for p in (policy, reference)]
        for rows in chunks(len(where.target_T), policy.head.weight.shape[0]):
            logp_TV, logq_TV = (_logp(p, h[rows]) for p, h in zip((policy, reference), hidden, strict=True))
            total += float((logp_TV.exp() * (logp_TV - logq_TV)).sum())
        tokens += len(where.target_T)
    total, tokens = world.sum_floats([total, tokens])
    return max(0.0, total / tokens) if tokens else 0.0


def _logp(policy: Policy, hidden_TD: Tensor) -> Tensor:
    with policy.in_compute_dtype():
        logits_TV = policy.logits(hidden_TD)
    return (logits_TV if policy.float64 else logits_TV.float()).log_softmax(-1)
