"""Sieve before sampling: which prompts are worth their responses, by what is known of how often they are solved.

What an algorithm drops after sampling was sampled for nothing. The chance that a prompt is solved is believed to be
Beta(right, wrong): a prior from all prompts, plus the prompt's own responses, which count less the older they are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sieverl.errors import UsageError

if TYPE_CHECKING:
    from sieverl.algorithms.algorithm import Algorithm


class Belief(NamedTuple):
    """Beta(right, wrong): pseudo-counts of right and wrong responses, both above 0."""

    right: float
    wrong: float

    def all_right(self, responses: int) -> float:
        """The chance that so many responses are all right (of a beta-binomial).

        >>> Belief(1, 1).all_right(2), Belief(1, 1).all_right(0)
        (0.3333333333333333, 1.0)
        """
        return _all(self.right, self.wrong, responses)

    def all_wrong(self, responses: int) -> float:
        """The chance that so many responses are all wrong.

        >>> Belief(1, 3).all_wrong(1)
        0.75
        """
        return _all(self.wrong, self.right, responses)


def _all(of_kind: float, other: float, responses: int) -> float:
    chance = 1.0
    for already in range(responses):
        chance *= (of_kind + already) / (of_kind + other + already)
    return chance


@dataclass(frozen=True)
class Sieve:
    """Leave out prompts that will not teach, and stop groups that are surely all right or all wrong.

    A group whose chance to teach the algorithm anything is below `threshold` is not sampled, or not to its end: it is
    judged before its first response if the prompt is in the ledger (`skip`), and after the share `first` of its
    responses, at least two, if these are all alike. With probability `explore` a prompt is neither passed over nor
    stopped in an epoch, so that none is lost for ever. The counts of a prompt are multiplied by `discount` in each
    step, as the policy moves on.

    Its bias: groups that are left out would have taught with a chance below `threshold`, and enter with the known
    probability `explore` instead of 1; the responses of a group that is sampled are those that it would have had. A
    group that was stopped counts as a whole one in the denominator of the loss, as if all of it had been sampled and
    dropped. With `threshold` 0 or `explore` 1 nothing changes. Compare GRESO (arXiv 2506.02177), which skips by history
    alone (`first=1`), and SPEED-RL (arXiv 2506.09016), which stops by the first responses alone (`skip=False`).

    >>> sieve = Sieve(first=0.5)
    >>> sieve.first_of(8), sieve.first_of(1)
    (4, 1)
    """

    threshold: float = 0.5
    explore: float = 0.05
    first: float = 0.375
    skip: bool = True
    discount: float = 0.97

    def __post_init__(self) -> None:
        for name in ("threshold", "explore", "first", "discount"):
            value = getattr(self, name)
            if not 0 <= value <= 1 or (name in ("first", "discount") and value == 0):
                above = "above 0" if name in ("first", "discount") else "from 0"
                raise UsageError(f"sieve.{name} is {value}; it must be {above} up to 1")

    def first_of(self, samples: int) -> int:
        """How many of a group's responses come before it is judged: two at least, since one is always alike."""
        return min(samples, max(2, round(self.first * samples)))


class Teaches(NamedTuple):
    """Whether an algorithm learns from a group that is all wrong, and from one that is all right."""

    all_wrong: bool
    all_right: bool

    def chance(self, belief: Belief, remaining: int, right: bool | None = None) -> float:
        """The chance that a group teaches which has `remaining` responses to come.

        `right` is what all of its responses so far are, None where it has none; `belief` knows of them already.

        >>> Teaches(False, False).chance(Belief(1, 1), 2), Teaches(False, True).chance(Belief(1, 1), 2, right=True)
        (0.33333333333333337, 1.0)
        """
        lost = 0.0
        if not self.all_wrong and right is not True:
            lost += belief.all_wrong(remaining)
        if not self.all_right and right is not False:
            lost += belief.all_right(remaining)
        return 1.0 - lost


def teaches(algorithm: Algorithm, samples: int) -> Teaches:
    """What an algorithm keeps of groups that are all alike, tried on toy batches with a mixed group beside them.

    In one of them responses are as short as can be, in the other of all lengths.

    >>> from sieverl.algorithms import raft, reinforce, reinforce_rej
    >>> [tuple(teaches(algorithm, 4)) for algorithm in (reinforce, raft, reinforce_rej)]
    [(True, True), (False, True), (False, False)]
    """
    if algorithm.penalises_sampled:
        return Teaches(True, True)
    samples = max(2, samples) if "group" in algorithm.needs else samples  # its groups grow in later rounds
    mixed = [1.0, *[0.0] * (samples - 1)]
    rewards = [[0.0] * samples, [1.0] * samples, mixed]
    greedy = ([0.0] * 3, [1.0] * 3) if "greedy" in algorithm.needs else (None,)  # right or wrong, it is not known
    longest = 100
    lengths = (np.ones((3, samples), int), np.tile(np.linspace(1, longest, samples).astype(int), (3, 1)))
    keeps = [
        np.asarray(algorithm.credit(rewards, greedy=each, length=length, max_tokens=longest).keep)
        for each in greedy
        for length in lengths
    ]
    return Teaches(any(bool(keep[0].any()) for keep in keeps), any(bool(keep[1].any()) for keep in keeps))


def with_sieve(algorithm: Algorithm, **settings: Any) -> Algorithm:
    """The algorithm with a sieve before its sampling; `settings` are fields of `Sieve`.

    >>> from sieverl.algorithms import grpo
    >>> with_sieve(grpo, threshold=0.2).sampling.sieve.threshold
    0.2
    """
    before = algorithm.sampling.sieve or Sieve()
    return replace(algorithm, sampling=replace(algorithm.sampling, sieve=replace(before, **settings)))
