"""The update: kept responses only, micro-batches under a token budget, sums inside and one division outside.

Legend: T response tokens of a micro-batch, S its samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from sieverl.algorithm import Algorithm
from sieverl.critic import ValueModel
from sieverl.distributed import World
from sieverl.model import Policy
from sieverl.objective import Tokens, to_tokens, whiten
from sieverl.optimizer import learning_rate, make_optimizer
from sieverl.packing import Layout, MiniBatch, Sample, layout, micro_batches, shares
from sieverl.parallel import side_by_side
from sieverl.recipe import Train

Metrics = dict[str, float]
NONFINITE = ("advantages", "log_probs", "losses")  # of tokens, of tokens, of micro-batches
OBSERVED = ("loss", "tokens", "clipped", "kl_old", "gap", "gap_tokens", *NONFINITE)
SMALL = 16_000_000  # parameters: a seventh less time for 10M, none for 36M, and a twin's gradients take memory
MAX_WEIGHT = 2.0  # C of min(pi_old / pi_engine, C)


class Learner:
    """Policy, optimiser, and (where the algorithm needs them) reference and critic."""

    def __init__(
        self,
        policy: Policy,
        algorithm: Algorithm,
        settings: Train,
        temperature: float = 1.0,
        total_updates: int = 1,
        foreign_engine: bool = False,
        reference: Callable[[], Policy] | None = None,
        critic: ValueModel | None = None,
        world: World | None = None,
    ) -> None:
        self.policy, self.algorithm, self.settings, self.world = policy, algorithm, settings, world or World()
        self.temperature, self.total_updates, self.foreign_engine = temperature, total_updates, foreign_engine
        self.reference, self.critic = reference, critic
        self.optimizer = make_optimizer(list(policy.parameters.values()), settings)
        self.updates = 0  # optimiser steps, those skipped for want of kept responses included
        self.nonfinite = 0
        self.tokens_seen = 0  # tokens through the layers: counted work
        self.forwards = 0

    # --- score: what must be known before the first step ------------------------------------------------

    def score(self, batches: Sequence[MiniBatch], probe: Sequence[Sample] = ()) -> Metrics:
        """Old, reference and value log-probs of the samples, where something needs them; usually nothing.

        Where neither this nor the update computes the policy's log-probs (nothing is kept, or the critic warms up),
        those of `probe` are compared with the engine's all the same.
        """
        metrics = self._score(batches) if any(map(self._computes, batches)) else {}
        return metrics if metrics or self._trains(batches) else self._mismatch(probe, self.logp(probe))

    def _score(self, batches: Sequence[MiniBatch]) -> Metrics:
        samples = [s for batch in batches for s in batch.samples]
        needs = self.algorithm.needs
        several = len(batches) * self.settings.epochs > 1
        from_engine = self.settings.old == "engine"
        metrics: Metrics = {}
        if from_engine:
            for s in samples:
                s.old = torch.tensor(s.engine_logp, dtype=self._dtype, device=self.policy.device)
        elif "old" in needs or (several and ("ratio" in needs or self.foreign_engine)):
            scored = self.logp(samples)
            for s, old in zip(samples, scored, strict=True):
                s.old = old
            metrics |= self._mismatch(samples, scored)
        if "ref" in needs:
            assert self.reference is not None
            reference = self.policy if self.settings.reference == "last" else self.reference()
            for s, ref in zip(samples, self.logp(samples, reference), strict=True):
                s.ref = ref
        kept = [s for s in samples if s.kept]
        if self.critic is not None:
            values = self.critic.score(kept, self.policy, self.settings.micro_batch_tokens)
            for s, value in zip(kept, values, strict=True):
                s.value = value
        self._spread(kept)
        return metrics

    @property
    def _dtype(self) -> torch.dtype:
        return torch.float64 if self.policy.float64 else torch.float32

    @torch.no_grad()
    def logp(self, samples: Sequence[Sample], policy: Policy | None = None) -> list[Tensor]:
        """Log-probs of each sample's response, without gradient, in order; by another policy where one is given."""
        policy = policy or self.policy
        out: list[Tensor] = [torch.empty(0)] * len(samples)
        for group in micro_batches(samples, self.settings.micro_batch_tokens):
            chosen = [samples[i] for i in group]
            where = layout(chosen, policy.device)
            logp_T, _ = self._forward(policy, where, entropy=False)
            self.tokens_seen += len(where.ids_P)
            self.forwards += 1
            for i, part in zip(group, torch.split(logp_T, [len(s.response) for s in chosen]), strict=True):
                out[i] = part
        return out

    def _mismatch(self, samples: Sequence[Sample], scored: Sequence[Tensor]) -> Metrics:
        """Mean |learner - engine| log-prob over response tokens: the stale-weights alarm reads this."""
        gap = tokens = 0.0
        for s, logp in zip(samples, scored, strict=True):
            gap += float((logp - logp.new_tensor(s.engine_logp)).abs().sum())
            tokens += len(s.response)
        gap, tokens = self.world.sum_floats([gap, tokens])
        return {"policy/engine_mismatch": gap / tokens} if tokens else {}

    def _spread(self, samples: Sequence[Sample]) -> None:
        """Per-token advantages (and value targets) of all that is kept, once, before the first step."""
        if self.algorithm.spread is to_tokens:
            return
        advantage_T = torch.zeros(sum(len(s.response) for s in samples), dtype=self._dtype, device=self.policy.device)
        if samples:
            tokens = self._tokens(samples, advantage_T, None)  # no policy yet: spreads look at old log-probs only
            advantage_T = self.algorithm.spread(tokens)
            if self.critic is not None:
                assert tokens.value_T is not None
                for s, target in zip(samples, self._split(advantage_T + tokens.value_T, samples), strict=True):
                    s.target = target
        if self.algorithm.whiten:
            advantage_T = whiten(advantage_T, self.world.sum)
        for s, advantage in zip(samples, self._split(advantage_T, samples), strict=True):
            s.advantage = advantage

    @staticmethod
    def _split(value_T: Tensor, samples: Sequence[Sample]) -> Sequence[Tensor]:
        return torch.split(value_T, [len(s.response) for s in samples]) if samples else []

    # --- update ----------------------------------------------------------------------------------------

    def update(self, batches: Sequence[MiniBatch]) -> Metrics:
        """One optimiser step a mini-batch (and epoch); a mini-batch with nothing to compute makes none."""
        sums = dict.fromkeys(OBSERVED, 0.0)
        norms, made, losses, skipped = [], 0, 0, self.nonfinite
        for _ in range(self.settings.epochs):
            for batch in batches:
                lr = self.learning_rate()
                self.updates += 1
                if not self._computes(batch):
                    continue
                if self.critic is not None:
                    if batch.kept:
                        stepped = self.critic.update(batch, self.policy, self.settings.micro_batch_tokens, self.world)
                        self.nonfinite += not stepped
                    if self.updates <= self.critic.settings.warmup_steps:
                        continue
                losses += 1
                norm = self._gradient(batch, sums, first=losses == 1)
                if self._step(norm, lr):
                    made += 1
                    norms.append(norm)
        names = list(sums)
        total = dict(zip(names, self.world.sum_floats([sums[n] for n in names]), strict=True))
        metrics: Metrics = {
            "train/loss": total["loss"] / max(losses, 1),
            "train/updates": float(made),
            "train/grad_norm": sum(norms) / max(len(norms), 1),
            "train/learning_rate": self.learning_rate(),
            "train/nonfinite": float(self.nonfinite),
            "policy/clip_fraction": total["clipped"] / max(total["tokens"], 1.0),
            "policy/kl_old": total["kl_old"] / max(total["tokens"], 1.0),
        }
        metrics |= {f"nonfinite/{name}": total[name] for name in NONFINITE}
        metrics["nonfinite/gradients"] = float(self.nonfinite - skipped)
        if total["gap_tokens"]:
            metrics["policy/engine_mismatch"] = total["gap"] / total["gap_tokens"]
        if self.critic is not None:
            metrics |= self.critic.metrics()
        return metrics

    def _computes(self, batch: MiniBatch) -> bool:
        """Whether any rank has something to compute; the same answer on every rank, without asking them."""
        return batch.kept > 0 or (self.algorithm.penalises_sampled and len(batch.sampled_lengths) > 0)

    def _trains(self, batches: Sequence[MiniBatch]) -> bool:
        """Whether the policy learns anything in the next `update`: not while its critic warms up."""
        warmup = 0 if self.critic is None else self.critic.settings.warmup_steps
        visits = list(batches) * self.settings.epochs
        return any(map(self._computes, visits[max(0, warmup - self.updates) :]))

    def _gradient(self, batch: MiniBatch, sums: dict[str, float], first: bool = True) -> float:
        """Gradients of the mini-batch, summed over micro-batches and ranks; their norm.

        In the first one of a step, log-probs are compared with the engine's where `score` had none to compare.
        """
        self.optimizer.zero_grad(set_to_none=True)
        parts = zip(self.policies, shares(batch.samples, len(self.policies)), strict=False)  # or fewer, if few prompts
        tasks = [partial(self._backward, policy, part, batch, first) for policy, part in parts]
        for observed in side_by_side(tasks):
            self.tokens_seen += int(observed.pop("computed"))
            self.forwards += int(observed.pop("forwards"))
            for name, value in observed.items():
                sums[name] = sums.get(name, 0.0) + value
        parameters = list(self.policy.parameters.values())
        for twin in self.policies[1:]:
            for p, other in zip(parameters, twin.parameters.values(), strict=True):
                if other.grad is not None:
                    p.grad = other.grad if p.grad is None else p.grad.add_(other.grad)
                    other.grad = None
        self.world.sum_gradients(parameters)
        grads = [p.grad for p in parameters if p.grad is not None]
        return float(torch.nn.utils.get_total_norm(grads)) if grads else 0.0

    def _backward(self, policy: Policy, part: Sequence[Sample], batch: MiniBatch, first: bool) -> dict[str, float]:
        """Gradients of a part of the mini-batch, added to those of `policy`; what was observed."""
        sums = dict.fromkeys((*OBSERVED, "computed", "forwards"), 0.0)
        for group in micro_batches(part, self.settings.micro_batch_tokens // len(self.policies)):
            samples = [part[i] for i in group]
            where = layout(samples, policy.device)
            logp_T, entropy_T = self._forward(policy, where, "entropy" in self.algorithm.needs)
            sums["computed"] += len(where.ids_P)
            sums["forwards"] += 1
            tokens = self._tokens(samples, logp_T, entropy_T, batch)
            total, count = self.algorithm.loss(tokens)
            (total / count).backward()
            loss = float(total.detach()) / count
            sums["loss"] += loss
            sums["losses"] += not math.isfinite(loss)
            self._observe(tokens, samples, sums, first)
        return sums

    @cached_property
    def policies(self) -> list[Policy]:
        """The policy and, where a small model leaves threads of a CPU idle, a twin for every other micro-batch."""
        small = sum(p.numel() for p in self.policy.model.parameters()) <= SMALL
        several = self.policy.device.type == "cpu" and torch.get_num_threads() > 1
        return [self.policy, self.policy.twin()] if small and several else [self.policy]

    @torch.no_grad()
    def _observe(self, tokens: Tokens, samples: Sequence[Sample], sums: dict[str, float], first: bool) -> None:
        kept_T = torch.ones_like(tokens.logp_T) if tokens.kept_T is None else tokens.kept_T
        log_ratio_T = tokens.log_ratio_T()
        sums["tokens"] += float(kept_T.sum())
        for name, value_T in (("advantages", tokens.advantage_T), ("log_probs", tokens.logp_T)):
            sums[name] += float((~value_T.isfinite()).sum())
        sums["kl_old"] -= float((log_ratio_T * kept_T).sum())
        outside = getattr(self.algorithm.objective, "outside", None)
        if outside is not None:
            sums["clipped"] += float((outside(tokens, self.algorithm.ratio(tokens)) * kept_T).sum())
        if first and (samples[0].old is None or self.settings.old == "engine"):
            engine_T = tokens.logp_T.new_tensor([x for s in samples for x in s.engine_logp])
            sums["gap"] += float((tokens.logp_T - engine_T).abs().sum())
            sums["gap_tokens"] += len(engine_T)

    def _step(self, norm: float, lr: float) -> bool:
        """Clip and step; gradients that are not finite are dropped and counted."""
        if not math.isfinite(norm):
            self.nonfinite += 1
            self.optimizer.zero_grad(set_to_none=True)
            return False
        limit = self.settings.max_grad_norm
        if limit and norm > limit:
            for p in self.policy.parameters.values():
                if p.grad is not None:
                    p.grad.mul_(limit / norm)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return True

    def learning_rate(self) -> float:
        """The learning rate of the next update."""
        return learning_rate(self.updates, self.total_updates, self.settings)

    # --- forward ---------------------------------------------------------------------------------------

    def _forward(self, policy: Policy, where: Layout, entropy: bool) -> tuple[Tensor, Tensor | None]:
        """Log-probs (and entropies) of the response tokens of one micro-batch, [T]."""
        logp_T, entropy_T = policy.logp(policy.hidden_at(where), where.target_T, self.temperature, entropy)
        return logp_T, entropy_T if entropy else None

    def _tokens(
        self, samples: Sequence[Sample], logp_T: Tensor, entropy_T: Tensor | None, batch: MiniBatch | None = None
    ) -> Tokens:
        device, dtype = self.policy.device, self._dtype
        sizes = torch.tensor([len(s.response) for s in samples], device=device)
        response_T = torch.repeat_interleave(torch.arange(len(samples), device=device), sizes)

        def joined(name: str) -> Tensor | None:
            """Of those that have it; zeros for responses that are here for a penalty only."""
            parts = [getattr(s, name) for s in samples]
            if all(part is None for part in parts):
                return None
            blank = logp_T.new_zeros(max(len(s.response) for s in samples)).detach()
            return torch.cat(
                [blank[: len(s.response)] if x is None else x for s, x in zip(samples, parts, strict=True)]
            )

        advantage_T = joined("advantage")
        if advantage_T is None:
            credit_S = torch.tensor([s.credit for s in samples], dtype=dtype, device=device)
            advantage_T = credit_S[response_T]
        old_T = joined("old")
        weight_T = None
        if self.foreign_engine and batch is not None and self.settings.old != "engine":
            engine_T = logp_T.new_tensor([x for s in samples for x in s.engine_logp])
            scored_T = logp_T.detach() if old_T is None else old_T  # this very policy, with one update a batch
            weight_T = (scored_T - engine_T).exp().clamp(max=MAX_WEIGHT)
        kept_T = None
        if not all(s.kept for s in samples):
            kept_T = torch.tensor([float(s.kept) for s in samples], dtype=dtype, device=device)[response_T]
        pair_S = None
        if samples and samples[0].pair >= 0:
            pair_S = torch.tensor([s.pair for s in samples], device=device)
        extra: dict[str, Any] = {}
        if batch is not None:
            extra = {
                "lengths": batch.lengths,
                "sampled_lengths": batch.sampled_lengths,
                "pairs": batch.pairs,
                "max_tokens": batch.max_tokens,
            }
        return Tokens(
            logp_T,
            response_T,
            advantage_T,
            old_T=old_T,
            ref_T=joined("ref"),
            value_T=joined("value"),
            entropy_T=entropy_T,
            weight_T=weight_T,
            kept_T=kept_T,
            pair_S=pair_S,
            **extra,
        )
