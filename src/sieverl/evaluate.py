"""Numbers that can be believed: avg@k with intervals that respect prompts, and the KL to the start model.

Legend: P prompts, K samples of each, T response tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sieverl.distributed import World
from sieverl.model import Policy, chunks
from sieverl.packing import Sample, layout, micro_batches
from sieverl.types import Array

Z95 = 1.959964


def mean_interval(value_P: Array) -> tuple[float, float, float]:
    """Mean over prompts and its 95% interval, each prompt one cluster (normal approximation, clipped to [0, 1]).

    >>> [round(x, 3) for x in mean_interval(np.array([1.0, 0.0, 0.5, 0.5]))]
    [0.5, 0.1, 0.9]
    """
    mean = float(value_P.mean())
    half = Z95 * float(value_P.std(ddof=1)) / len(value_P) ** 0.5 if len(value_P) > 1 else 0.5
    return mean, max(0.0, mean - half), min(1.0, mean + half)


@torch.no_grad()
def exact_kl(policy: Policy, reference: Policy, samples: Sequence[Sample], budget: int, world: World) -> float:
    """KL(policy || reference), exact over the vocabulary at each response token, mean over tokens of all ranks."""
    total = tokens = 0.0
    for group in micro_batches(samples, budget):
        where = layout([samples[i] for i in group], policy.pad, policy.device)
        hidden = []
        for p in (policy, reference):
            with p.autocast():
                hidden.append(p.hidden(where.ids_BL)[where.row_T, where.column_T])
        for rows in chunks(len(where.target_T), policy.head.weight.shape[0]):
            logp_TV, logq_TV = (_logp(p, h[rows]) for p, h in zip((policy, reference), hidden, strict=True))
            total += float((logp_TV.exp() * (logp_TV - logq_TV)).sum())
        tokens += len(where.target_T)
    total, tokens = world.sum_floats([total, tokens])
    return max(0.0, total / tokens) if tokens else 0.0


def _logp(policy: Policy, hidden_TD: Tensor) -> Tensor:
    with policy.autocast():
        logits_TV = policy.logits(hidden_TD)
    return (logits_TV if policy.float64 else logits_TV.float()).log_softmax(-1)
