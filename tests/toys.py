"""Random responses, a learner on them, groups to pack: shared by the tests of several rooms."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jaxtyping
import numpy as np
import torch
from torch import Tensor

from sieverl.algorithms import Algorithm
from sieverl.distributed.world import World
from sieverl.learner.critic import ValueModel
from sieverl.learner.learner import Learner
from sieverl.model.packed import Response
from sieverl.model.policy import Policy
from sieverl.model.types import CausalModel
from sieverl.recipe import Train
from sieverl.types import Responses, Rollout

SUMS = ("loss", "tokens", "clipped", "kl_old", "gap", "gap_tokens")


def batch(seed: int = 0, prompts: int = 6, samples: int = 4) -> tuple[Responses, dict[int, Rollout]]:
    """Random responses to random prompts with 0/1 rewards; one group is all wrong, one all correct."""
    g = np.random.default_rng(seed)
    reward = g.integers(0, 2, (prompts, samples)).astype(float)
    reward[1], reward[4] = 0.0, 1.0
    rows = prompts * samples
    length = g.integers(1, 9, rows)
    prompt_tokens = [g.integers(3, 97, g.integers(2, 7)).tolist() for _ in range(prompts)]
    rollouts = {}
    for row in range(rows):
        response = g.integers(3, 97, length[row]).tolist()
        logp = (-g.uniform(1, 5, length[row])).tolist()
        rollouts[row] = Rollout(row // samples, row % samples, response, logp, False, 0, prompt_tokens[row // samples])
    flat = reward.ravel()
    responses = Responses(
        np.repeat(np.arange(prompts), samples), flat, flat == 1, length, np.zeros(rows, dtype=bool), np.zeros(rows), 10
    )
    return responses, rollouts


def learner(
    model: CausalModel,
    algorithm: Algorithm,
    budget: int = 200,
    minibatches: int = 2,
    off_policy_engine: bool = False,
    world: World | None = None,
    **changes: Any,
) -> Learner:
    """A learner of `model`, which is its own reference policy, with a shared critic if the algorithm has one.

    `changes` are other settings of `Train`.
    """
    policy = Policy(model, None)
    settings = Train(lr=1e-3, minibatches=minibatches, micro_batch_tokens=budget, **changes)
    critic = ValueModel(replace(algorithm.critic, shared=True), policy) if algorithm.critic else None
    return Learner(
        policy,
        algorithm,
        settings,
        off_policy_engine=off_policy_engine,
        reference=lambda: policy,
        critic=critic,
        world=world or World(),
    )


def gradient(run: Learner) -> Tensor:
    """All gradients of a learner's policy as one vector."""
    return torch.cat([p.grad.flatten() for p in run.gradients.parameters if p.grad is not None])


def group(seed: int = 0) -> list[Response]:
    """Two prompts; lengths so different that the sequences are in several blocks."""
    g = np.random.default_rng(seed)
    prompts = [g.integers(3, 97, n).tolist() for n in (7, 4)]
    lengths = (1, 12, 30, 2, 9)
    return [Response(p, g.integers(3, 97, n).tolist()) for p in prompts for n in lengths]


@contextlib.contextmanager
def unchecked() -> Iterator[None]:
    """Without the checks of types and shapes, which only tests make."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
