"""What one step of a recipe has to compute, however it is laid out."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from sieverl.errors import UsageError
from sieverl.planning.lengths import Lengths
from sieverl.recipe import Recipe

MOST_RESPONSES, MOST_TOKENS = 1_000_000, 1_000_000_000


@dataclass(frozen=True)
class Work:
    """One step: `prompts` x `samples` responses, of which the share `kept` is trained on, in `updates` optimiser steps.

    `passes` is how often a kept response is trained on. `old`, `reference` and `critic` say what is scored before that.
    """

    prompts: int
    samples: int
    prompt_tokens: int
    lengths: Lengths
    kept: float = 1.0
    updates: int = 1
    passes: int = 1
    old: bool = False
    reference: bool = False
    critic: bool = False
    verify_seconds: float = 0.001  # for a response, by the workers of one rank together

    def __post_init__(self) -> None:
        if not 0 <= self.kept <= 1:
            raise UsageError(f"--kept is {self.kept:g}; it is a share of the responses, from 0 to 1")
        if not 1 <= self.prompt_tokens <= MOST_TOKENS:
            raise UsageError(f"--prompt-tokens is {str(self.prompt_tokens)[:40]}; allowed: 1 to {MOST_TOKENS:,}")
        if self.responses > MOST_RESPONSES:
            raise UsageError(
                f"a step of rollout.prompts = {self.prompts:,} x rollout.samples = {self.samples:,} responses cannot "
                f"be planned: each is looked at; use at most {MOST_RESPONSES:,}"
            )

    @property
    def responses(self) -> int:
        """Responses of a step."""
        return self.prompts * self.samples

    @property
    def response_tokens(self) -> float:
        """Tokens of all responses."""
        return self.responses * self.lengths.mean

    @property
    def learner_tokens(self) -> float:
        """Tokens of one pass over the kept responses; each prompt of any of them once (`model/packed.py`).

        An upper bound of the prompts: kept responses are spread over them as if by chance.
        """
        prompts = self.prompts * (1 - (1 - self.kept) ** self.samples)
        return self.kept * self.response_tokens + prompts * self.prompt_tokens

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt with the longest response: no micro-batch can be smaller."""
        return self.prompt_tokens + self.lengths.limit


def work_of(recipe: Recipe, needs: Collection[str], critic: bool, lengths: Lengths, kept: float, prompt: int) -> Work:
    """The work of a step of `recipe`, whose algorithm `needs` something; see `Algorithm.needs`."""
    train = recipe.train
    several = train.minibatches * train.epochs > 1
    off_policy = recipe.dtype == "bfloat16" or recipe.rollout.engine != "torch"
    return Work(
        prompts=recipe.rollout.prompts,
        samples=recipe.rollout.samples,
        prompt_tokens=prompt,
        lengths=lengths,
        kept=kept,
        updates=train.minibatches * train.epochs,
        passes=train.epochs,
        old=train.old != "engine" and ("old" in needs or (several and ("ratio" in needs or off_policy))),
        reference="ref" in needs,
        critic=critic,
    )
