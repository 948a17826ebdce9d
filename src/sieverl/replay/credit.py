"""The credit of logged responses under other algorithms: what they would have kept, and its worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from sieverl.algorithms.algorithm import Algorithm
from sieverl.errors import DataError, SieveRLError, UsageError, first_line
from sieverl.recipe import Recipe
from sieverl.replay.rows import Logged
from sieverl.training.checks import chosen_algorithm
from sieverl.training.credit import credit_of
from sieverl.types import Credit

NO_GREEDY = "it subtracts the reward of a greedy response to each prompt, and those are not logged"


@dataclass(frozen=True)
class Tally:
    """Counts of responses and tokens of a step, or of several (`step` is None then).

    `positive` and `negative` are the kept responses with such an advantage, `agreed` those of all responses that the
    run kept or left out as this algorithm would have.
    """

    step: int | None
    responses: int
    tokens: int
    kept: int
    kept_tokens: int
    positive: int
    negative: int
    agreed: int
    advantage: float  # the sum of the absolute advantages of what is kept

    @property
    def kept_fraction(self) -> float:
        """The share of the responses that is kept."""
        return self.kept / max(self.responses, 1)

    @property
    def token_fraction(self) -> float:
        """The share of the tokens that is kept."""
        return self.kept_tokens / max(self.tokens, 1)

    @staticmethod
    def of(logged: Logged, credit: Credit) -> Tally:
        """The counts of one step."""
        keep_R, length_R = credit.keep, logged.responses.length_R
        return Tally(
            logged.step,
            len(keep_R),
            int(length_R.sum()),
            int(keep_R.sum()),
            int(length_R[keep_R].sum()),
            int((credit.advantage[keep_R] > 0).sum()),
            int((credit.advantage[keep_R] < 0).sum()),
            int((keep_R == logged.kept_R).sum()),
            float(np.abs(credit.advantage[keep_R]).sum()),
        )

    @staticmethod
    def total(tallies: Sequence[Tally]) -> Tally:
        """The counts of several steps together."""
        names = [name for name in Tally.__dataclass_fields__ if name != "step"]
        return Tally(None, **{name: sum(getattr(tally, name) for tally in tallies) for name in names})


@dataclass(frozen=True)
class Replayed:
    """An algorithm on the responses of a run: counts by step, or why there are none (`refused`)."""

    name: str
    algorithm: Algorithm | None = None
    tallies: Sequence[Tally] = ()
    credits: Mapping[int, Credit] = field(default_factory=dict, repr=False)
    refused: str = ""
    note: str = ""


def replay(recipe: Recipe, name: str, logged: Sequence[Logged], graded: bool) -> Replayed:
    """The credit that the algorithm of that name gives to the responses, with the recipe's `[axes]`.

    What cannot be computed from them is refused, with the reason.
    """
    try:
        algorithm = chosen_algorithm(recipe.model_copy(update={"algorithm": name}))
    except SieveRLError as error:
        return Replayed(name, refused=first_line(error, 400))
    if "greedy" in algorithm.needs:
        return Replayed(name, algorithm, refused=NO_GREEDY)
    credits: dict[int, Credit] = {}
    for one in logged:
        try:
            credits[one.step] = credit_of(recipe, algorithm, one.responses, one.step, graded)
        except UsageError as error:
            return Replayed(name, algorithm, refused=f"step {one.step}: {first_line(error, 300)}")
    tallies = [Tally.of(one, credits[one.step]) for one in logged]
    return Replayed(name, algorithm, tallies, credits, note=_sampling(algorithm))


def _sampling(algorithm: Algorithm) -> str:
    """What is said of an algorithm that would have sampled otherwise."""
    if algorithm.sampling.until is None:
        return ""
    return "it samples again until its prompts are worth training on; here it sees what the run sampled, and no more"


def check_same(own: Replayed, logged: Sequence[Logged]) -> None:
    """Raise a DataError unless the run's own algorithm gives the very credit that was logged."""
    for one in logged:
        credit = own.credits[one.step]
        same_R = np.isclose(credit.advantage, one.advantage_R, rtol=0.0, atol=0.0, equal_nan=True)
        different_R = (credit.keep != one.kept_R) | ~same_R
        if different_R.any():
            raise DataError(
                f"step {one.step}: {own.name} gives {int(different_R.sum())} of {len(different_R)} responses another "
                "credit than the run logged, so no other algorithm's could be trusted; its recipe, its files or its "
                "algorithm have changed since, or the run was made by another version"
            )
