"""The update: kept responses only, micro-batches under a token budget, sums inside and one division outside.

Legend: T response tokens of a micro-batch, S its samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sieverl.algorithms.algorithm import Algorithm
from sieverl.algorithms.token_advantage import to_tokens, whiten
from sieverl.algorithms.tokens import Tokens
from sieverl.distributed.world import World
from sieverl.learner.assemble import as_tokens
from sieverl.learner.batches import MiniBatch, Sample, agreed_micro_batches
from sieverl.learner.critic import ValueModel
from sieverl.learner.gradients import Gradients, Replicas
from sieverl.learner.halving import Budget
from sieverl.learner.optimizer import learning_rate, make_optimizer
from sieverl.model.packed import NOTHING, Layout, layout
from sieverl.model.policy import Policy
from sieverl.recipe import Train
from sieverl.types import Progress, Rollout, unwatched

Metrics = dict[str, float]
NONFINITE = ("advantages", "log_probs", "losses")  # of tokens, of tokens, of micro-batches
OBSERVED = ("loss", "tokens", "trained", "clipped", "kl_old", "gap", "gap_tokens", *NONFINITE)


@dataclass(eq=False, repr=False)
class Learner:
    """Policy, optimiser, and (where the algorithm needs them) reference policy and critic.

    `temperature` is that of sampling, `total_updates` the length of the learning-rate schedule. An `off_policy_engine`
    samples from other log-probs than the policy's, so that tokens get importance weights. `reference` loads the
    reference policy when it is first called.
    """

    policy: Policy
    algorithm: Algorithm
    settings: Train
    temperature: float = 1.0
    total_updates: int = 1
    off_policy_engine: bool = False
    reference: Callable[[], Policy] | None = None
    critic: ValueModel | None = None
    world: World = field(default_factory=World)
    progress: Progress = unwatched

    def __post_init__(self) -> None:
        parameters = list(self.policy.parameters.values())
        self.budget = Budget(self.settings.micro_batch_tokens, self.world, self.policy.sharded)
        self.gradients = Gradients(parameters, self.world)
        self.replicas = Replicas(self.policy)
        self.optimizer = make_optimizer(parameters, self.settings)
        self.updates = 0  # optimiser steps, including those skipped because nothing was kept
        self.nonfinite = 0  # optimiser steps skipped because gradients were not finite
        self.tokens_seen = 0  # tokens through the layers: counted work
        self.forwards = 0

    # --- score: what must be known before the first optimiser step ------------------------------------

    def score(self, batches: Sequence[MiniBatch], probe: Sequence[Rollout] = ()) -> Metrics:
        """Old, reference and value log-probs of the samples, where something needs them; usually nothing.

        Where neither this nor the update computes log-probs of the policy (nothing is kept, or the critic warms up),
        those of `probe` are computed and compared with the engine's.
        """
        metrics = self._score(batches) if any(map(self.has_work, batches)) else {}
        if metrics or self._trains(batches):
            return metrics
        samples = [Sample.of(rollout) for rollout in probe]
        return self._mismatch(samples, self.logp(samples))

    def _score(self, batches: Sequence[MiniBatch]) -> Metrics:
        samples = [s for batch in batches for s in batch.samples]
        needs = self.algorithm.needs
        several = len(batches) * self.settings.epochs > 1
        from_engine = self.settings.old == "engine"
        metrics: Metrics = {}
        if from_engine:
            for s in samples:
                s.old_logp = torch.tensor(s.engine_logp, dtype=self._dtype, device=self.policy.device)
        elif "old" in needs or (several and ("ratio" in needs or self.off_policy_engine)):
            scored = self.logp(samples)
            for s, old in zip(samples, scored, strict=True):
                s.old_logp = s.learner_logp = old
            metrics |= self._mismatch(samples, scored)
        if "ref" in needs:
            assert self.reference is not None
            reference = self.policy if self.settings.reference == "last" else self.reference()
            for s, ref in zip(samples, self.logp(samples, reference), strict=True):
                s.ref_logp = ref
        kept = [s for s in samples if s.kept]
        if self.critic is not None:
            values = self.critic.score(kept, self.policy, self.budget, self.world)
            for s, value in zip(kept, values, strict=True):
                s.value = value
        self._token_advantages(kept)
        return metrics

    @property
    def _together(self) -> World | None:
        """The ranks that take part in every forward: those of a sharded policy."""
        return self.world if self.policy.sharded else None

    @property
    def _dtype(self) -> torch.dtype:
        return torch.float64 if self.policy.float64 else torch.float32

    @torch.no_grad()
    def logp(self, samples: Sequence[Sample], policy: Policy | None = None) -> list[Tensor]:
        """Log-probs of each sample's response, without gradients, in order; by `policy` where one is given."""
        return self.budget.fit(
            lambda tokens: self._logp(samples, policy or self.policy, tokens), [len(s) for s in samples]
        )

    def _logp(self, samples: Sequence[Sample], policy: Policy, budget: int) -> list[Tensor]:
        out: list[Tensor] = [torch.empty(0)] * len(samples)
        for group in agreed_micro_batches(samples, budget, self._together):
            self.progress("scoring")
            chosen = [samples[i] for i in group]
            packed = layout(chosen or NOTHING, policy.device)
            logp_T, _ = self._forward(policy, packed, entropy=False)
            if not chosen:
                continue
            self.tokens_seen += len(packed.ids_P)
            self.forwards += 1
            for i, part in zip(group, torch.split(logp_T, [len(s.response_tokens) for s in chosen]), strict=True):
                out[i] = part
        return out

    def _mismatch(self, samples: Sequence[Sample], scored: Sequence[Tensor]) -> Metrics:
        """Mean |learner - engine| log-prob over response tokens: the stale-weights alarm reads this."""
        gap = tokens = 0.0
        for s, logp in zip(samples, scored, strict=True):
            gap += float((logp - logp.new_tensor(s.engine_logp)).abs().sum())
            tokens += len(s.response_tokens)
        gap, tokens = self.world.sum_floats([gap, tokens])
        return {"policy/engine_mismatch": gap / tokens} if tokens else {}

    def _token_advantages(self, samples: Sequence[Sample]) -> None:
        """Per-token advantages (and value targets) of all kept samples, once, before the first optimiser step."""
        if self.algorithm.token_advantage is to_tokens:
            return
        advantage_T = torch.zeros(
            sum(len(s.response_tokens) for s in samples), dtype=self._dtype, device=self.policy.device
        )
        if samples:
            tokens = as_tokens(samples, advantage_T)  # token-level advantages use old log-probs only
            advantage_T = self.algorithm.token_advantage(tokens)
            if self.critic is not None:
                assert tokens.value_T is not None
                for s, target in zip(samples, self._split(advantage_T + tokens.value_T, samples), strict=True):
                    s.value_target = target
        if self.algorithm.whiten:
            advantage_T = whiten(advantage_T, self.world.all_reduce)
        for s, advantage in zip(samples, self._split(advantage_T, samples), strict=True):
            s.token_advantage = advantage

    @staticmethod
    def _split(value_T: Tensor, samples: Sequence[Sample]) -> Sequence[Tensor]:
        return torch.split(value_T, [len(s.response_tokens) for s in samples]) if samples else []

    # --- update ----------------------------------------------------------------------------------------

    def update(self, batches: Sequence[MiniBatch]) -> Metrics:
        """One optimiser step for each mini-batch and epoch; none where a mini-batch has nothing to compute."""
        sums = dict.fromkeys(OBSERVED, 0.0)
        norms, made, losses, skipped = [], 0, 0, self.nonfinite
        for _ in range(self.settings.epochs):
            for batch in batches:
                lr = self.learning_rate()
                self.updates += 1
                if not self.has_work(batch):
                    continue
                if self.critic is not None:
                    if batch.kept:
                        stepped = self.critic.update(batch, self.policy, self.budget, self.world)
                        self.nonfinite += not stepped
                    if self.updates <= self.critic.settings.warmup_updates:
                        continue
                losses += 1
                norm = self.backward(batch, sums, first=losses == 1)
                if self._step(norm, lr):
                    made += 1
                    norms.append(norm)
        names = list(sums)
        total = dict(zip(names, self.world.sum_floats([sums[n] for n in names]), strict=True))
        metrics: Metrics = {
            "train/loss": total["loss"] / max(losses, 1),
            "train/updates": float(made),
            "train/tokens": total["trained"],
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
            metrics |= self.critic.metrics(self.world)
        return metrics | {"memory/halved": self.budget.agree()}

    def has_work(self, batch: MiniBatch) -> bool:
        """Whether any rank has something to compute: known on every rank without communication."""
        return batch.kept > 0 or (self.algorithm.penalises_sampled and len(batch.denominator.sampled_lengths) > 0)

    def _trains(self, batches: Sequence[MiniBatch]) -> bool:
        """Whether the policy is trained in the next `update`: not while its critic warms up."""
        warmup = 0 if self.critic is None else self.critic.settings.warmup_updates
        visits = list(batches) * self.settings.epochs
        return any(map(self.has_work, visits[max(0, warmup - self.updates) :]))

    def backward(self, batch: MiniBatch, sums: dict[str, float], first: bool = True) -> float:
        """Gradients of the mini-batch, summed over micro-batches and ranks; their norm.

        Adds what metrics are computed from to `sums`. In the `first` mini-batch of a step, log-probs are compared with
        the engine's if `score` did not do so.
        """
        for observed in self.budget.fit(
            lambda tokens: self._accumulate(batch, first, tokens), [len(s) for s in batch.samples]
        ):
            self.tokens_seen += int(observed.pop("computed"))
            self.forwards += int(observed.pop("forwards"))
            for name, value in observed.items():
                sums[name] = sums.get(name, 0.0) + value
        return self.gradients.all_reduce()

    def _accumulate(self, batch: MiniBatch, first: bool, tokens: int) -> list[dict[str, float]]:
        """The gradients of this rank from the beginning, with micro-batches of so many tokens on all replicas."""
        self.gradients.clear()
        budget = tokens // len(self.replicas.policies)
        return self.replicas.accumulate(
            batch.samples, lambda policy, part: self._backward(policy, part, batch, first, budget)
        )

    def _backward(
        self, policy: Policy, part: Sequence[Sample], batch: MiniBatch, first: bool, budget: int
    ) -> dict[str, float]:
        """Add the gradients of a part of the mini-batch to those of `policy`; returns what was observed."""
        sums = dict.fromkeys((*OBSERVED, "computed", "forwards"), 0.0)
        for group in agreed_micro_batches(part, budget, self._together):
            self.progress("updating")
            samples = [part[i] for i in group]
            packed = layout(samples or NOTHING, policy.device)
            logp_T, entropy_T = self._forward(policy, packed, "entropy" in self.algorithm.needs)
            if not samples:
                (logp_T.sum() * 0.0).backward()
                continue
            sums["computed"] += len(packed.ids_P)
            sums["forwards"] += 1
            importance_sampling = self.off_policy_engine and self.settings.old != "engine"
            tokens = as_tokens(samples, logp_T, entropy_T, batch.denominator, importance_sampling)
            total, count = self.algorithm.loss(tokens)
            (total / count).backward()
            loss = float(total.detach()) / count
            sums["loss"] += loss
            sums["losses"] += not math.isfinite(loss)
            self._observe(tokens, samples, sums, first)
        return sums

    @torch.no_grad()
    def _observe(self, tokens: Tokens, samples: Sequence[Sample], sums: dict[str, float], first: bool) -> None:
        """Add what metrics are computed from to `sums`."""
        kept_T = torch.ones_like(tokens.logp_T) if tokens.kept_T is None else tokens.kept_T
        log_ratio_T = tokens.log_ratio_T()
        sums["tokens"] += float(kept_T.sum())
        sums["trained"] += len(tokens.logp_T)
        for name, value_T in (("advantages", tokens.advantage_T), ("log_probs", tokens.logp_T)):
            sums[name] += float((~value_T.isfinite()).sum())
        sums["kl_old"] -= float((log_ratio_T * kept_T).sum())
        outside = getattr(self.algorithm.objective, "outside", None)
        if outside is not None:
            sums["clipped"] += float((outside(tokens, self.algorithm.ratio(tokens)) * kept_T).sum())
        if first and (samples[0].old_logp is None or self.settings.old == "engine"):
            for s, logp in zip(samples, self._split(tokens.logp_T.detach(), samples), strict=True):
                s.learner_logp = logp
            engine_T = tokens.logp_T.new_tensor([x for s in samples for x in s.engine_logp])
            sums["gap"] += float((tokens.logp_T - engine_T).abs().sum())
            sums["gap_tokens"] += len(engine_T)

    def _step(self, norm: float, lr: float) -> bool:
        """Clip and step; gradients that are not finite are dropped and counted."""
        if not math.isfinite(norm):
            self.nonfinite += 1
            self.gradients.clear()
            return False
        limit = self.settings.max_grad_norm
        if limit and norm > limit:
            self.gradients.scale(limit / norm)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.gradients.clear()
        return True

    def learning_rate(self) -> float:
        """The learning rate of the next update."""
        return learning_rate(self.updates, self.total_updates, self.settings)

    # --- forward ---------------------------------------------------------------------------------------

    def _forward(self, policy: Policy, packed: Layout, entropy: bool) -> tuple[Tensor, Tensor | None]:
        """Log-probs (and entropies) of the response tokens of one micro-batch, [T]."""

        def compute() -> tuple[Tensor, Tensor]:
            return policy.logp(policy.response_hidden(packed), packed.target_T, self.temperature, entropy)

        logp_T, entropy_T = policy.with_weights(compute)
        return logp_T, entropy_T if entropy else None
