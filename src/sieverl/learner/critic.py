"""Values for PPO: a linear head on the policy's (detached) hidden states, or on a model of the critic's own.

Legend: T response tokens of a micro-batch, D hidden size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from sieverl.algorithms.algorithm import Critic
from sieverl.algorithms.objective import value_loss
from sieverl.distributed.fsdp import by_kind
from sieverl.distributed.world import World
from sieverl.learner.batches import MiniBatch, Sample, agreed_micro_batches
from sieverl.learner.gradients import Gradients
from sieverl.learner.halving import Budget
from sieverl.model.packed import NOTHING, layout
from sieverl.model.policy import Policy

GRADIENT_NORM = 1.0  # at most


class ValueModel:
    """V(prompt, tokens so far) for each response token. `body` is the critic's own model; None shares the policy's."""

    def __init__(self, settings: Critic, policy: Policy, body: Policy | None = None) -> None:
        self.settings, self.body = settings, body
        size = policy.head.weight.shape[1]
        dtype = torch.float64 if policy.float64 else torch.float32
        self.head = torch.nn.Linear(size, 1, dtype=dtype, device=policy.device)
        torch.nn.init.zeros_(self.head.weight)
        torch.nn.init.zeros_(self.head.bias)
        self.trained = {f"head.{name}": p for name, p in self.head.named_parameters()}
        if body is not None:
            used = {id(p) for p in body.decoder.parameters()}
            self.trained |= {f"body.{n}": p for n, p in body.parameters.items() if id(p) in used}
        groups = [{"params": kind} for kind in by_kind(self.trained.values())]
        self.optimizer = torch.optim.AdamW(groups, lr=settings.lr, weight_decay=0.0, fused=True)
        self.loss, self.updates = 0.0, 0

    def values(self, samples: Sequence[Sample], policy: Policy) -> Tensor:
        """Values of the states before each response token, [T]; 0 everywhere before training."""
        body = self.body or policy
        with torch.set_grad_enabled(self.body is not None and torch.is_grad_enabled()):
            packed = layout(samples or NOTHING, body.device)
            hidden_TD = body.with_weights(lambda: body.response_hidden(packed))
        value_T: Tensor = self.head(hidden_TD.to(self.head.weight.dtype))[:, 0]
        return value_T

    def _together(self, policy: Policy, world: World) -> World | None:
        """The ranks that take part in every forward: those of a sharded model."""
        return world if (self.body or policy).sharded else None

    @torch.no_grad()
    def score(self, samples: Sequence[Sample], policy: Policy, budget: Budget, world: World) -> list[Tensor]:
        """Values of each sample's response tokens, without gradients, in order, in micro-batches that fit."""
        scored: list[Tensor] = budget.fit(
            lambda tokens: self._score(samples, policy, tokens, world), [len(s) for s in samples]
        )
        return scored

    def _score(self, samples: Sequence[Sample], policy: Policy, budget: int, world: World) -> list[Tensor]:
        out: list[Tensor] = [torch.empty(0)] * len(samples)
        for group in agreed_micro_batches(samples, budget, self._together(policy, world)):
            chosen = [samples[i] for i in group]
            value_T = self.values(chosen, policy)
            if not chosen:
                continue
            parts = torch.split(value_T, [len(s.response_tokens) for s in chosen])
            for i, part in zip(group, parts, strict=True):
                out[i] = part
        return out

    def update(self, batch: MiniBatch, policy: Policy, budget: Budget, world: World) -> bool:
        """One optimiser step on the clipped value loss, a mean over the kept tokens of the mini-batch of all ranks.

        Returns whether it was made: gradients that are not finite are dropped.
        """
        gradients = Gradients(list(self.trained.values()), world)
        kept = [s for s in batch.samples if s.kept]

        def accumulate(tokens: int) -> float:
            gradients.clear()
            return self._backward(kept, batch.kept_tokens, policy, agreed_micro_batches(kept, tokens, together))

        together = self._together(policy, world)
        self.loss += budget.fit(accumulate, [len(s) for s in kept])
        self.updates += 1
        norm = gradients.all_reduce()
        if not math.isfinite(norm):
            return False
        gradients.clip(norm, GRADIENT_NORM)
        self.optimizer.step()
        return True

    def _backward(
        self, kept: Sequence[Sample], kept_tokens: int, policy: Policy, groups: Sequence[Sequence[int]]
    ) -> float:
        """Add the gradients of the samples, group by group; their loss, divided by the tokens of all ranks."""
        loss = 0.0
        for group in groups:
            chosen = [kept[i] for i in group]
            if not chosen:
                (self.values(chosen, policy).sum() * 0.0).backward()
                continue
            old_T, target_T = (torch.cat([getattr(s, name) for s in chosen]) for name in ("value", "value_target"))
            loss_T = value_loss(self.values(chosen, policy), old_T, target_T, self.settings.clip)
            (loss_T.sum() / kept_tokens).backward()
            loss += float(loss_T.detach().sum()) / kept_tokens
        return loss

    def metrics(self, world: World) -> dict[str, float]:
        """Mean value loss of the updates since the last call, over all ranks."""
        loss, updates, self.loss, self.updates = self.loss, self.updates, 0.0, 0
        return {"train/value_loss": world.sum_floats([loss])[0] / max(updates, 1)}
