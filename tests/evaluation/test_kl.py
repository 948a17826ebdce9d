"""The KL between two policies: against the plain sum over the vocabulary, on ragged rollouts."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from sieverl.distributed.world import World
from sieverl.evaluation.kl import exact_kl
from sieverl.model.policy import Policy
from sieverl.model.types import CausalModel
from sieverl.types import Rollout

ROLLOUTS = [
    Rollout(0, 0, [5, 6, 2], [], False, prompt_tokens=[3, 4]),
    Rollout(0, 1, [7], [], False, prompt_tokens=[3, 4]),
    Rollout(1, 0, [9, 9], [], True, prompt_tokens=[8]),
]


@pytest.mark.parametrize("budget", [4, 1000])
def test_it_is_the_mean_over_tokens_of_the_sum_over_the_vocabulary(
    random_model: Callable[..., CausalModel], budget: int
) -> None:
    one, other = (Policy(random_model(dtype=torch.float64, seed=seed), None) for seed in (0, 1))
    values = []
    for r in ROLLOUTS:
        ids = torch.tensor([[*r.prompt_tokens, *r.tokens]])
        with torch.no_grad():
            p, q = (policy.causal(input_ids=ids).logits[0].log_softmax(-1) for policy in (one, other))
        kl = (p.exp() * (p - q)).sum(-1)
        values += kl[len(r.prompt_tokens) - 1 : -1].tolist()
    assert len(values) == 6
    assert exact_kl(one, other, ROLLOUTS, budget, World()) == pytest.approx(sum(values) / 6, rel=1e-12)
    assert exact_kl(one, one, ROLLOUTS, budget, World()) == 0.0
    assert exact_kl(one, other, [], budget, World()) == 0.0
