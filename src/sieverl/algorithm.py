"""An algorithm is a frozen value: one small pure function on each axis. The named ones stand in `algorithms.py`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from torch import Tensor

from sieverl import objective as obj
from sieverl.credit import everything, needs_of, reward, signed
from sieverl.errors import UsageError
from sieverl.objective import Aggregate, Clipped, Penalty, Tokens
from sieverl.types import Array, Credit, Responses

CLIP = Clipped(0.2, 0.2)


@dataclass(frozen=True)
class Draw:
    """How prompts are sampled: once by default.

    `greedy` adds one greedy response a prompt (a baseline, never trained on). With `until`, prompts for which it is not
    yet true are drawn again, `rounds` times in all: as new prompts in their place (`fresh`) or as more samples of them.
    """

    greedy: bool = False
    until: Callable[[Responses], Array] | None = None
    fresh: bool = False
    rounds: int = 1


@dataclass(frozen=True)
class Critic:
    """A value head on the policy (`shared`) or a model of its own, trained on clipped value loss before the policy."""

    lr: float = 1e-5
    clip: float | None = 0.2
    warmup_steps: int = 0
    shared: bool = False


@dataclass(frozen=True)
class Algorithm:
    """What is learnt from sampled responses, as one choice on each axis (see DESIGN: 'An algorithm is a value').

    `over` is the denominator: all sampled responses (a dropped one then counts as zero, exactly as if masked) or the
    kept ones, which are those that `select` chose: an advantage of zero saves the work, not the place in the mean.
    `about` and `paper` are for people.
    """

    draw: Draw = Draw()
    shape: Callable[[Responses], Array] = signed
    select: Callable[[Responses], Array] = everything
    advantage: Callable[[Responses, Array], Array] = reward
    spread: Callable[[Tokens], Tensor] = obj.to_tokens
    whiten: bool = False
    ratio: Callable[[Tokens], Tensor] = obj.per_token
    objective: Callable[[Tokens, Tensor], Tensor] = CLIP
    penalties: tuple[Penalty, ...] = ()
    aggregate: Aggregate = obj.sequence_mean
    over: Literal["sampled", "kept"] = "sampled"
    critic: Critic | None = None
    about: str = ""
    paper: str = ""

    def __post_init__(self) -> None:
        for axis in ("shape", "select", "advantage", "spread", "ratio", "objective"):
            value = getattr(self, axis)
            if not callable(value):
                raise UsageError(f"{axis} is {value!r}; pass the function itself, such as sieverl.credit.correct")
        if ("pair" in needs_of(self.objective)) != (self.aggregate.unit == "pair"):
            raise UsageError("a pair objective needs a pair aggregate, and only that: set aggregate=pair_mean")
        if ("value" in needs_of(self.spread)) != (self.critic is not None):
            raise UsageError("a spread that needs values (Gae) needs a critic, and a critic such a spread")
        if self.aggregate.unit == "pair" and (self.spread is not obj.to_tokens or self.penalises_sampled):
            raise UsageError("a pair objective takes whole responses: no KL in the reward, no penalty over 'sampled'")
        if self.aggregate.unit == "pair" and self.shape is not signed:
            raise UsageError("a pair objective takes the best and the worst reward: a shape of it would be ignored")
        if self.whiten and self.spread is obj.to_tokens:
            raise UsageError("whiten is over per-token advantages: give a spread (Gae, KlInReward), or whiten=False")
        if self.over not in ("sampled", "kept"):
            raise UsageError(f"the denominator is taken over 'sampled' or 'kept' responses, not {self.over!r}")

    @property
    def needs(self) -> frozenset[str]:
        """What this algorithm needs beyond log-probs: the union of what its functions declare.

        The ratio, and so old log-probs in a run of several updates a batch, is needed by every function of tokens
        that is not known to do without (`ratio_free`).
        """
        of_tokens = [self.spread, self.objective, *(p.function for p in self.penalties)]
        parts = [self.shape, self.select, self.advantage, self.ratio, *of_tokens]
        union = frozenset[str]().union(*map(needs_of, parts))
        if not all(getattr(function, "ratio_free", False) for function in of_tokens):
            union |= {"ratio"}
        return union | {"greedy"} if self.draw.greedy else union

    @property
    def penalises_sampled(self) -> bool:
        """Whether a penalty is over all sampled responses, so that none can be dropped."""
        return any(penalty.over == "sampled" for penalty in self.penalties)

    def credit(
        self,
        rewards: Any,
        *,
        prompt: Any = None,
        correct: Any = None,
        greedy: Any = None,
        length: Any = None,
        max_tokens: int = 1,
        seed: int = 0,
        graded: bool | None = None,
        samples: int | None = None,
    ) -> Credit:
        """Which responses are kept and what each is worth.

        `rewards` are [prompts, samples], or flat rows with `prompt` [R] (groups may then be ragged), or `Responses`.
        `correct` defaults to reward >= 1; `greedy` (remax) is one reward a prompt, or one a row, of a response of one
        token; `graded` defaults to whether any reward is other than 0, 1 or -1; `samples` (reinforce_ada), how many of
        a prompt are to be kept, to those of a row. Returns `keep` (bool) and `advantage` (float64) of the shape of
        `rewards`. Raises a ValueError for a reward that is not finite, a group of one where the formula needs more, a
        missing `greedy`.

        >>> from sieverl.algorithms import reinforce_rej
        >>> reinforce_rej.credit([[1, 0], [0, 0]]).advantage
        array([[ 1., -1.],
               [-1., -1.]])
        """
        if isinstance(rewards, Responses):
            responses: Responses = rewards
            shape: tuple[int, ...] = (len(rewards),)
        else:
            responses, shape = as_responses(rewards, prompt, correct, greedy, length, max_tokens, seed, graded, samples)
        self._check(responses)
        if "greedy" in self.needs:
            responses = replace(responses, greedy_R=self.shape(_greedy(responses)))
        shaped_R = self.shape(responses)
        selected_R = self.select(responses)
        advantage_R = self.advantage(responses, shaped_R)
        idle = self.spread is obj.to_tokens and not self.penalties  # a zero advantage then teaches nothing
        keep_R = selected_R & (advantage_R != 0) if idle else selected_R
        return Credit(*(x.reshape(shape) for x in (keep_R, advantage_R, shaped_R, selected_R)))

    def _check(self, responses: Responses) -> None:
        if not np.isfinite(responses.reward_R).all():
            bad = int(np.flatnonzero(~np.isfinite(responses.reward_R))[0])
            raise UsageError(f"reward {bad} is {responses.reward_R[bad]}; every reward must be a finite number")
        if "greedy" in self.needs and responses.greedy is None and responses.greedy_R is None:
            raise UsageError("this algorithm subtracts the reward of the greedy response: pass greedy=, one a prompt")
        if "group" in self.needs and len(responses):
            prompts, size = np.unique(responses.prompt_R, return_counts=True)
            if size.min() < 2:
                raise UsageError(
                    f"prompt {prompts[size.argmin()]} has one response; this algorithm compares the responses of a "
                    "prompt and needs at least 2 (rollout.samples)"
                )

    def loss(self, tokens: Tokens) -> tuple[Tensor, float]:
        """(sum, count) of the loss of one micro-batch: add sums over micro-batches and ranks, divide once by `count`.

        >>> import torch
        >>> logp = torch.tensor([-1.0, -2.0], requires_grad=True)
        >>> total, count = Algorithm().loss(Tokens(logp, torch.tensor([0, 0]), torch.tensor([1.0, 1.0])))
        >>> total.item(), count
        (-1.0, 1.0)
        """
        lengths = tokens.length_S().tolist() if tokens.lengths is None else tokens.lengths
        sampled = lengths if tokens.sampled_lengths is None else tokens.sampled_lengths
        pairs = (
            (0 if tokens.pair_S is None else len(set(tokens.pair_S.tolist()))) if tokens.pairs is None else tokens.pairs
        )
        count = self.aggregate.count(lengths, pairs, tokens.max_tokens) or 1.0  # nothing selected: penalties only
        loss_T = self.objective(tokens, self.ratio(tokens))
        if tokens.weight_T is not None and self.aggregate.unit == "response":
            loss_T = loss_T * tokens.weight_T
        if tokens.kept_T is not None:
            loss_T = loss_T * tokens.kept_T
        total = self.aggregate.total(tokens, loss_T)
        per_response = obj.sequence_mean if self.aggregate.unit == "pair" else self.aggregate
        for penalty in self.penalties:
            penalty_T = penalty.coefficient * penalty.function(tokens)
            if penalty.over == "kept" and tokens.kept_T is not None:
                penalty_T = penalty_T * tokens.kept_T
            over = sampled if penalty.over == "sampled" else lengths
            scale = count / max(per_response.count(over, pairs, tokens.max_tokens), 1.0)
            total = total + scale * per_response.total(tokens, penalty_T)
        return total, count


def _greedy(responses: Responses) -> Responses:
    """The greedy response of each row's prompt; one that is known by its reward only is right from 1 on, and short."""
    if responses.greedy is not None:
        return responses.greedy
    reward_R = np.asarray(responses.greedy_R, dtype=np.float64)
    blank_R = np.zeros(len(reward_R), dtype=bool)
    right_R = reward_R >= 1 - 1e-6
    return replace(responses, reward_R=reward_R, correct_R=right_R, length_R=blank_R + 1, truncated_R=blank_R)


def as_responses(
    rewards: Any,
    prompt: Any,
    correct: Any,
    greedy: Any,
    length: Any,
    max_tokens: int,
    seed: int,
    graded: bool | None,
    samples: int | None,
) -> tuple[Responses, tuple[int, ...]]:
    """Rows from what a person passes to `Algorithm.credit`, and the shape to give back."""
    reward = np.asarray(rewards, dtype=np.float64)
    if prompt is None and reward.ndim != 2:
        raise UsageError(f"rewards have shape {reward.shape}; pass [prompts, samples], or flat rows with prompt=")
    prompt_R = np.repeat(np.arange(reward.shape[0]), reward.shape[1]) if prompt is None else np.asarray(prompt).ravel()
    reward_R = reward.ravel()
    if len(prompt_R) != len(reward_R):
        raise UsageError(f"{len(reward_R)} rewards but {len(prompt_R)} prompts; pass one prompt a reward")
    if greedy is not None:
        greedy = np.asarray(greedy, dtype=np.float64).ravel()
        if len(greedy) != len(reward_R):
            names, index = np.unique(prompt_R, return_inverse=True)
            if len(greedy) != len(names):
                raise UsageError(f"{len(greedy)} greedy rewards for {len(names)} prompts; pass one a prompt")
            greedy = greedy[index]
    if graded is None:
        graded = not np.isin(reward_R, (-1.0, 0.0, 1.0)).all()
    if samples is None:
        samples = reward.shape[1] if prompt is None else 0
    rows = Responses(
        prompt_R=prompt_R,
        reward_R=reward_R,
        correct_R=reward_R >= 1 - 1e-6 if correct is None else np.asarray(correct, dtype=bool).ravel(),
        length_R=np.ones(len(reward_R), dtype=np.int64) if length is None else np.asarray(length).ravel(),
        truncated_R=np.zeros(len(reward_R), dtype=bool),
        greedy_R=greedy,
        max_tokens=max_tokens,
        seed=seed,
        graded=bool(graded),
        samples=samples,
    )
    return rows, reward.shape
