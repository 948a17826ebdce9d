"""How often each prompt was solved of late: what the sieve before sampling goes by. Part of every checkpoint.

Legend: R responses, G groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from sieverl.algorithms.sieve import Belief, Sieve, Teaches
from sieverl.engines.noise import keys, uniforms
from sieverl.types import IntArray, Responses

FORGOTTEN = 0.05  # responses: a prompt of which less is left is as one that was never seen
START = 8.0  # groups of Beta(1/2, 1/2) that the prior begins with
WEIGHT = (0.2, 8.0)  # least and most pseudo-responses of the prior
COIN = 1 << 40  # the place of the coin in a prompt's noise, where no token is


@dataclass(frozen=True)
class Ledger:
    """Discounted counts, as of the batch `batches`.

    `prompts`: index of a prompt -> right, wrong, and the batch as of which they are. `groups`, `rate` and `square` are
    sums over groups of 1, of the share solved, and of an unbiased estimate of its square: the prior's moments.
    """

    prompts: dict[str, tuple[float, float, int]] = field(default_factory=dict)  # text keys, as JSON has them
    batches: int = 0
    groups: float = 0.0
    rate: float = 0.0
    square: float = 0.0

    @cached_property
    def prior(self) -> Belief:
        """The Beta distribution with the mean and variance of the sampled groups and of a few of Beta(1/2, 1/2).

        >>> Ledger().prior
        Belief(right=0.5, wrong=0.5)
        """
        groups = self.groups + START
        mean, square = (self.rate + START / 2) / groups, (self.square + START * 3 / 8) / groups
        most, variance = mean * (1 - mean), square - mean * mean
        weight = most / variance - 1 if variance > 1e-9 else WEIGHT[1]
        weight = min(max(weight, WEIGHT[0]), WEIGHT[1])
        return Belief(mean * weight, (1 - mean) * weight)

    def seen(self, prompt: int, discount: float) -> tuple[float, float] | None:
        """What is left of a prompt's right and wrong responses; None where it was never seen, or is forgotten."""
        if str(prompt) not in self.prompts:
            return None
        right, wrong, batch = self.prompts[str(prompt)]
        left = discount ** (self.batches - batch)
        return (right * left, wrong * left) if (right + wrong) * left >= FORGOTTEN else None

    def belief(self, prompt: int, discount: float) -> Belief:
        """What is believed of a prompt: the prior, and what was seen of it."""
        prior, seen = self.prior, self.seen(prompt, discount)
        return prior if seen is None else Belief(prior.right + seen[0], prior.wrong + seen[1])

    def after(self, responses: Responses, prompt_of_group: Sequence[int], sieve: Sieve) -> Ledger:
        """The ledger after a batch of all ranks' responses.

        A group whose answers are all right or all wrong and whose rewards differ counts as half and half: most
        algorithms learn from it. The prior goes by the first responses of a group, which do not depend on
        whether it was stopped.
        """
        discount, now = sieve.discount, self.batches + 1
        prompts = {
            prompt: entry
            for prompt, entry in self.prompts.items()
            if (entry[0] + entry[1]) * discount ** (now - entry[2]) >= FORGOTTEN
        }
        groups, rate, square = (discount * total for total in (self.groups, self.rate, self.square))
        first = sieve.first_of(responses.samples)
        for group, prompt in enumerate(prompt_of_group):
            rows = np.flatnonzero(responses.prompt_R == group)
            right = int(responses.correct_R[rows].sum())
            counts = (float(right), float(len(rows) - right))
            if min(counts) == 0 and alike(responses, rows) is None:
                counts = (len(rows) / 2, len(rows) / 2)
            before = prompts.get(str(prompt), (0.0, 0.0, now))  # perhaps of another group in this batch
            left = discount ** (now - before[2])
            prompts[str(prompt)] = (before[0] * left + counts[0], before[1] * left + counts[1], now)
            if first > 1:
                solved = int(responses.correct_R[rows[:first]].sum())
                groups, rate = groups + 1, rate + solved / first
                square += solved * (solved - 1) / (first * (first - 1))
        return Ledger(prompts, now, groups, rate, square)


def alike(responses: Responses, rows: IntArray) -> bool | None:
    """Whether the responses in these rows are all right (True) or all wrong (False), with one reward; else None."""
    correct, reward = responses.correct_R[rows], responses.reward_R[rows]
    if len(correct) == 0 or np.ptp(reward) > 0 or correct.any() != correct.all():
        return None
    return bool(correct[0])


@dataclass(frozen=True)
class Sifter:
    """Judges prompts and groups for one step, by a ledger. `samples` is the most responses that a group may get."""

    ledger: Ledger
    sieve: Sieve
    teaches: Teaches
    samples: int
    seed: int

    def skips(self, prompt: int, epoch: int) -> bool:
        """Whether a prompt is passed over: it was seen, and will hardly teach."""
        if not self.sieve.skip or self.ledger.seen(prompt, self.sieve.discount) is None:
            return False
        chance = self.teaches.chance(self.ledger.belief(prompt, self.sieve.discount), self.samples)
        return chance < self.sieve.threshold and not self._explores(prompt, epoch)

    def stops(self, prompt: int, epoch: int, right: bool, responses: int) -> bool:
        """Whether a group stops after so many responses, which are all right or all wrong."""
        belief = self.ledger.belief(prompt, self.sieve.discount) if self.sieve.skip else self.ledger.prior
        known = Belief(belief.right + responses * right, belief.wrong + responses * (not right))
        chance = self.teaches.chance(known, self.samples - responses, right)
        return chance < self.sieve.threshold and not self._explores(prompt, epoch)

    def _explores(self, prompt: int, epoch: int) -> bool:
        """A coin that depends on seed, prompt and epoch alone: the same in a resumed run and on every rank.

        There is one for both questions, so that a prompt which is not passed over by it gets its whole group.
        """
        key = keys(np.array([self.seed]), np.array([prompt]), np.array([epoch]))
        return bool(uniforms(key, COIN)[0] < self.sieve.explore)
