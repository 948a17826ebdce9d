"""An algorithm is a frozen value: one small pure function on each axis. The named ones are in `named.py`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from sieverl.algorithms import objective as obj
from sieverl.algorithms.credit import everything, reward, signed
from sieverl.algorithms.needs import needs_of
from sieverl.algorithms.objective import Aggregate, Clipped, Penalty
from sieverl.algorithms.sieve import Sieve
from sieverl.algorithms.token_advantage import to_tokens
from sieverl.algorithms.tokens import Tokens
from sieverl.errors import UsageError
from sieverl.types import ROUNDING, BoolArray, Credit, FloatArray, IntArray, Responses

CLIP = Clipped(0.2, 0.2)


@dataclass(frozen=True)
class DynamicSampling:
    """How prompts are sampled: once by default, or again until they are worth training on (DAPO, arXiv 2503.14476).

    `until` says which rows belong to prompts that need no more. Others are resampled, in `max_rounds` rounds at most:
    with `fresh_prompts` new prompts take their place, else they get more samples (Reinforce-Ada, arXiv 2510.04996).
    `greedy_baseline` adds one greedy response a prompt, which is never trained on (ReMax, arXiv 2310.10505). `sieve`
    leaves out prompts that will hardly teach, and stops groups early.

    >>> from sieverl import get_algorithm
    >>> get_algorithm("remax").sampling.greedy_baseline
    True
    """

    until: Callable[[Responses], BoolArray] | None = None
    fresh_prompts: bool = False
    max_rounds: int = 1
    greedy_baseline: bool = False
    sieve: Sieve | None = None

    def __post_init__(self) -> None:
        if self.max_rounds < 1:
            raise UsageError(f"sampling.max_rounds is {self.max_rounds}; it must be at least 1")


@dataclass(frozen=True)
class Critic:
    """A value head on the policy (`shared`) or a model of its own, trained on the clipped value loss before the policy.

    `clip` bounds the change of a value (None: unbounded); during the first `warmup_updates` optimiser steps only the
    critic is trained.

    >>> Critic(lr=1e-5, warmup_updates=10).shared
    False
    """

    lr: float = 1e-5
    clip: float | None = 0.2
    warmup_updates: int = 0
    shared: bool = False


@dataclass(frozen=True)
class Algorithm:
    """What is learnt from sampled responses: one function on each axis (docs/algorithms.md).

    `denominator` is what the loss is divided by: all sampled responses (a dropped one then counts as zero, exactly as
    if masked) or the kept ones, which are those that `select` chose. A kept response whose advantage is zero is not
    computed, but it stays in the denominator. `whiten` normalises token-level advantages over all tokens. `about` and
    `paper` are for the reader.

    >>> from sieverl.algorithms.credit import correct, one, share_correct
    >>> best = Algorithm(select=correct, advantage=one)
    >>> best.credit([[1.0, 0.0], [0.0, 0.0]]).keep
    array([[ True, False],
           [False, False]])
    >>> hard = Algorithm(select=lambda responses: share_correct(responses) < 0.9)  # one of your own
    >>> hard.credit([[1.0, 1.0], [1.0, 0.0]]).keep
    array([[False, False],
           [ True,  True]])
    """

    sampling: DynamicSampling = DynamicSampling()
    shape: Callable[[Responses], FloatArray] = signed
    select: Callable[[Responses], BoolArray] = everything
    advantage: Callable[[Responses, FloatArray], FloatArray] = reward
    token_advantage: Callable[[Tokens], Tensor] = to_tokens
    whiten: bool = False
    ratio: Callable[[Tokens], Tensor] = obj.per_token
    objective: Callable[[Tokens, Tensor], Tensor] = CLIP
    penalties: tuple[Penalty, ...] = ()
    aggregate: Aggregate = obj.sequence_mean
    denominator: Literal["sampled", "kept"] = "sampled"
    critic: Critic | None = None
    about: str = ""
    paper: str = ""

    def __post_init__(self) -> None:
        for axis in ("shape", "select", "advantage", "token_advantage", "ratio", "objective"):
            value = getattr(self, axis)
            if not callable(value):
                raise UsageError(f"{axis} is {value!r}; pass the function itself, such as sieverl.algorithms.correct")
        if ("pair" in needs_of(self.objective)) != (self.aggregate.unit == "pair"):
            raise UsageError("a pair objective needs a pair aggregate, and only that: set aggregate=pair_mean")
        if ("value" in needs_of(self.token_advantage)) != (self.critic is not None):
            raise UsageError("a token_advantage that needs values (Gae) needs a critic, and a critic needs one")
        if self.aggregate.unit == "pair" and (self.token_advantage is not to_tokens or self.penalises_sampled):
            raise UsageError("a pair objective takes whole responses: no KL in the reward, no penalty over 'sampled'")
        if self.aggregate.unit == "pair" and self.shape is not signed:
            raise UsageError("a pair objective takes the best and the worst reward: a shape of it would be ignored")
        if self.whiten and self.token_advantage is to_tokens:
            raise UsageError("whiten needs token-level advantages: give a token_advantage (Gae, KlInReward)")
        if self.denominator not in ("sampled", "kept"):
            raise UsageError(f"the denominator is taken over 'sampled' or 'kept' responses, not {self.denominator!r}")

    @property
    def needs(self) -> frozenset[str]:
        """What this algorithm needs beyond log-probs: the union of what its functions declare.

        Every function of tokens needs the ratio (and so old log-probs, with several updates a batch), unless it is
        marked as `ratio_free`.
        """
        of_tokens = [self.token_advantage, self.objective, *(p.function for p in self.penalties)]
        parts = [self.shape, self.select, self.advantage, self.ratio, *of_tokens]
        union = frozenset[str]().union(*map(needs_of, parts))
        if not all(getattr(function, "ratio_free", False) for function in of_tokens):
            union |= {"ratio"}
        return union | {"greedy"} if self.sampling.greedy_baseline else union

    @property
    def penalises_sampled(self) -> bool:
        """Whether a penalty is over all sampled responses, so that none can be dropped."""
        return any(penalty.denominator == "sampled" for penalty in self.penalties)

    def credit(  # many parameters: all that a person may know of responses, each by keyword
        self,
        rewards: ArrayLike | Responses,
        *,
        prompt: ArrayLike | None = None,
        correct: ArrayLike | None = None,
        greedy: ArrayLike | None = None,
        length: ArrayLike | None = None,
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
            responses, shape = as_responses(rewards, prompt, correct, greedy, length)
            graded = responses.graded if graded is None else graded
            samples = responses.samples if samples is None else samples
            responses = replace(responses, max_tokens=max_tokens, seed=seed, graded=graded, samples=samples)
        self._check(responses)
        if "greedy" in self.needs:
            responses = replace(responses, greedy_R=self.shape(_greedy(responses)))
        shaped_R = self.shape(responses)
        selected_R = self.select(responses)
        advantage_R = self.advantage(responses, shaped_R)
        idle = self.token_advantage is to_tokens and not self.penalties  # a zero advantage then teaches nothing
        keep_R = selected_R & (advantage_R != 0) if idle else selected_R
        rows = Credit(keep_R, advantage_R, shaped_R, selected_R)
        return rows.reshaped(shape)

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
        counted = tokens.counted()
        count = self.aggregate.count(counted) or 1.0  # nothing selected: penalties only
        loss_T = self.objective(tokens, self.ratio(tokens))
        if tokens.weight_T is not None and self.aggregate.unit == "response":
            loss_T = loss_T * tokens.weight_T
        if tokens.kept_T is not None:
            loss_T = loss_T * tokens.kept_T
        total = self.aggregate.total(tokens, loss_T)
        per_response = obj.sequence_mean if self.aggregate.unit == "pair" else self.aggregate
        for penalty in self.penalties:
            penalty_T = penalty.coefficient * penalty.function(tokens)
            if penalty.denominator == "kept" and tokens.kept_T is not None:
                penalty_T = penalty_T * tokens.kept_T
            divided_by = counted.of_sampled if penalty.denominator == "sampled" else counted
            scale = count / max(per_response.count(divided_by), 1.0)
            total = total + scale * per_response.total(tokens, penalty_T)
        return total, count


def _greedy(responses: Responses) -> Responses:
    """The greedy response of each row's prompt; where only its reward is known, correct from 1 on and of one token."""
    if responses.greedy is not None:
        return responses.greedy
    reward_R = np.asarray(responses.greedy_R, dtype=np.float64)
    blank_R = np.zeros(len(reward_R), dtype=bool)
    right_R = reward_R >= 1 - ROUNDING
    return replace(responses, reward_R=reward_R, correct_R=right_R, length_R=blank_R + 1, truncated_R=blank_R)


def as_responses(
    rewards: ArrayLike,
    prompt: ArrayLike | None = None,
    correct: ArrayLike | None = None,
    greedy: ArrayLike | None = None,
    length: ArrayLike | None = None,
) -> tuple[Responses, tuple[int, ...]]:
    """Rows from what is passed to `Algorithm.credit`, and the shape of the rewards."""
    reward = np.asarray(rewards, dtype=np.float64)
    if prompt is None and reward.ndim != 2:
        raise UsageError(f"rewards have shape {reward.shape}; pass [prompts, samples], or flat rows with prompt=")
    prompt_R = np.repeat(np.arange(reward.shape[0]), reward.shape[1]) if prompt is None else np.asarray(prompt).ravel()
    reward_R = reward.ravel()
    if len(prompt_R) != len(reward_R):
        raise UsageError(f"{len(reward_R)} rewards but {len(prompt_R)} prompts; pass one prompt a reward")
    rows = Responses(
        prompt_R=prompt_R,
        reward_R=reward_R,
        correct_R=reward_R >= 1 - ROUNDING if correct is None else np.asarray(correct, dtype=bool).ravel(),
        length_R=np.ones(len(reward_R), dtype=np.int64) if length is None else np.asarray(length).ravel(),
        truncated_R=np.zeros(len(reward_R), dtype=bool),
        greedy_R=None if greedy is None else _one_a_row(np.asarray(greedy, dtype=np.float64).ravel(), prompt_R),
        graded=not np.isin(reward_R, (-1.0, 0.0, 1.0)).all(),
        samples=reward.shape[1] if prompt is None else 0,
    )
    return rows, reward.shape


def _one_a_row(greedy: FloatArray, prompt_R: IntArray) -> FloatArray:
    """Greedy rewards, one a prompt or one a row, as one a row."""
    if len(greedy) == len(prompt_R):
        return greedy
    names, index = np.unique(prompt_R, return_inverse=True)
    if len(greedy) != len(names):
        raise UsageError(f"{len(greedy)} greedy rewards for {len(names)} prompts; pass one a prompt")
    per_row: FloatArray = greedy[index]
    return per_row
