"""Gradients: computed by several threads, summed over ranks, measured and scaled. A sharded model changes this file."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import TypeVar

import torch

from sieverl.distributed.fsdp import by_kind, is_sharded, whole
from sieverl.distributed.world import World
from sieverl.learner.batches import Sample, shares
from sieverl.learner.threads import side_by_side
from sieverl.model.policy import Policy

# Parameters up to which two threads with a replica each are faster than one: by 14% for 10M, not at all for 36M, where
# the gradients of the replica only take memory.
SMALL = 16_000_000
Result = TypeVar("Result")


class Gradients:
    """The gradients of `parameters` on this rank of `world`."""

    def __init__(self, parameters: Sequence[torch.nn.Parameter], world: World) -> None:
        self.parameters, self.world = parameters, world

    def clear(self) -> None:
        """Forget them: the next backward begins at zero."""
        for p in self.parameters:
            p.grad = None

    def all_reduce(self) -> float:
        """Sum them over the ranks, in place; the norm of the sums. A rank without any takes part with zeros."""
        replicated = [p for p in self.parameters if not is_sharded(p)]  # FSDP2 has summed the others in the backward
        if self.world.size > 1 and replicated:
            grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in replicated]
            flat = self.world.all_reduce(torch.cat([grad.reshape(-1) for grad in grads]))
            for p, grad, total in zip(replicated, grads, flat.split([g.numel() for g in grads]), strict=True):
                p.grad = grad.copy_(total.view_as(grad))
        kinds = by_kind(p.grad for p in self.parameters if p.grad is not None)
        norms = [float(whole(torch.nn.utils.get_total_norm(kind))) for kind in kinds]
        return norms[0] if len(norms) == 1 else math.hypot(*norms)

    def scale(self, factor: float) -> None:
        """Multiply them by `factor`, in place."""
        for p in self.parameters:
            if p.grad is not None:
                p.grad.mul_(factor)

    def clip(self, norm: float, limit: float) -> None:
        """Scale them so that their `norm` is at most `limit`, as `torch.nn.utils.clip_grad_norm_` does."""
        total = torch.tensor(norm, dtype=self.parameters[0].dtype)
        for kind in by_kind(self.parameters):
            torch.nn.utils.clip_grads_with_norm_(kind, limit, total)


class Replicas:
    """A policy and, where a small model leaves threads of a CPU idle, a replica of it on the same weights."""

    def __init__(self, policy: Policy, small: int = SMALL) -> None:
        self.policy, self.small = policy, small

    @cached_property
    def policies(self) -> list[Policy]:
        """The policy first."""
        small = sum(p.numel() for p in self.policy.model.parameters()) <= self.small
        several = self.policy.device.type == "cpu" and torch.get_num_threads() > 1
        several = several and not self.policy.sharded
        return [self.policy, self.policy.replica()] if small and several else [self.policy]

    def accumulate(
        self, samples: Sequence[Sample], backward: Callable[[Policy, Sequence[Sample]], Result]
    ) -> list[Result]:
        """Call `backward(replica, part)` on a part of the samples for each replica, in a thread each.

        Their gradients are added to those of the policy. There are fewer parts where there are fewer prompts.
        """
        for replica in self.policies[1:]:
            for p in replica.parameters.values():  # of work that failed
                p.grad = None
        parts = zip(self.policies, shares(samples, len(self.policies)), strict=False)
        results = side_by_side([partial(backward, replica, part) for replica, part in parts])
        for replica in self.policies[1:]:
            for p, other in zip(self.policy.parameters.values(), replica.parameters.values(), strict=True):
                if other.grad is not None:
                    p.grad = other.grad if p.grad is None else p.grad.add_(other.grad)
                    other.grad = None
        return results
