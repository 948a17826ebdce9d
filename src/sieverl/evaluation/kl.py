"""KL divergence between two policies, exact over the vocabulary. Legend: T response tokens, V vocabulary."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sieverl.distributed.world import World
from sieverl.learner.batches import Sample, micro_batches
from sieverl.model.logprobs import chunks
from sieverl.model.packed import layout
from sieverl.model.policy import Policy
from sieverl.types import Rollout


@torch.no_grad()
def exact_kl(policy: Policy, reference: Policy, rollouts: Sequence[Rollout], budget: int, world: World) -> float:
    """KL(policy || reference) in nats, exact over the vocabulary at each response token, mean over tokens of all ranks.

    `budget` is the largest number of tokens in a forward.
    """
    samples = [Sample.of(rollout) for rollout in rollouts]
    total = tokens = 0.0
    with policy.gathered(), reference.gathered():
        for group in micro_batches(samples, budget):
            packed = layout([samples[i] for i in group], policy.device)
            hidden, hidden_ref = policy.response_hidden(packed), reference.response_hidden(packed)
            for rows in chunks(len(packed.target_T), policy.head.weight.shape[0]):
                logp_TV, ref_TV = policy.log_probs(hidden[rows]), reference.log_probs(hidden_ref[rows])
                total += float((logp_TV.exp() * (logp_TV - ref_TV)).sum())
            tokens += len(packed.target_T)
    total, tokens = world.sum_floats([total, tokens])
    return max(0.0, total / tokens) if tokens else 0.0
