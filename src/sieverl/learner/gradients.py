"""The gradients of a policy, made by several threads and ranks and summed: the seam where a model is sharded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import TypeVar

import torch

from sieverl.distributed.world import World
from sieverl.learner.batches import Sample, shares
from sieverl.learner.threads import side_by_side
from sieverl.model.policy import Policy

# Parameters up to which two threads with a replica each are faster than one: by 14% for 10M, not at all for 36M, where
# the replica's gradients only take memory.
SMALL = 16_000_000
Result = TypeVar("Result")


class Gradients:
    """Gradients of `policy`, summed over its replicas on this machine and over the ranks of `world`."""

    def __init__(self, policy: Policy, world: World) -> None:
        self.policy, self.world = policy, world

    @cached_property
    def replicas(self) -> list[Policy]:
        """The policy and, where a small model leaves threads of a CPU idle, a replica on the same weights."""
        small = sum(p.numel() for p in self.policy.model.parameters()) <= SMALL
        several = self.policy.device.type == "cpu" and torch.get_num_threads() > 1
        return [self.policy, self.policy.replica()] if small and several else [self.policy]

    def accumulate(
        self, samples: Sequence[Sample], backward: Callable[[Policy, Sequence[Sample]], Result]
    ) -> list[Result]:
        """Call `backward(replica, part)` on a part of the samples for each replica; fewer parts for fewer prompts."""
        parts = zip(self.replicas, shares(samples, len(self.replicas)), strict=False)
        return side_by_side([partial(backward, replica, part) for replica, part in parts])

    def all_reduce(self) -> float:
        """Sum over replicas and ranks into the policy's own gradients; their norm, in the units of the loss."""
        parameters = list(self.policy.parameters.values())
        for replica in self.replicas[1:]:
            for p, other in zip(parameters, replica.parameters.values(), strict=True):
                if other.grad is not None:
                    p.grad = other.grad if p.grad is None else p.grad.add_(other.grad)
                    other.grad = None
        self.world.sum_gradients(parameters)
        grads = [p.grad for p in parameters if p.grad is not None]
        return float(torch.nn.utils.get_total_norm(grads)) if grads else 0.0

    def scale(self, factor: float) -> None:
        """Multiply all gradients by `factor`, in place."""
        for p in self.policy.parameters.values():
            if p.grad is not None:
                p.grad.mul_(factor)
