"""Arms beside each other: differences paired by seed, their intervals, and what they say of a claim.

A seed is one observation: the prompts of an evaluation are averaged within it, and two arms with the same seed share
their prompts and their start, and their sampling noise until they differ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import stdtr

from sieverl.evaluation.statistics import over_seeds
from sieverl.study.plan import Claim, Comparison, Quantity, Study
from sieverl.study.results import Result

LEVEL = 0.05
Verdict = Literal["holds", "does not hold", "undecided"]


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and its 95% interval (Student's t); None where fewer than two seeds leave it open."""

    seeds: int
    mean: float | None
    low: float | None = None
    high: float | None = None


def estimate(values: Sequence[float]) -> Estimate:
    """Of one number a seed.

    >>> estimate([0.5, 0.6, 0.7]).seeds, estimate([0.5]), estimate([])
    (3, Estimate(seeds=1, mean=0.5, low=None, high=None), Estimate(seeds=0, mean=None, low=None, high=None))
    """
    return Estimate(len(values), *over_seeds(values))


def of_arm(results: Sequence[Result], arm: str, quantity: Quantity) -> dict[int, float]:
    """Seed -> the quantity, for the runs of an arm that have it."""
    found = {result.seed: result.value(quantity) for result in results if result.arm == arm}
    return {seed: value for seed, value in found.items() if value is not None}


def differences(results: Sequence[Result], quantity: Quantity, arm: str, against: str) -> list[float]:
    """`arm` minus `against`, for each seed that both have, in the order of the seeds."""
    one, other = of_arm(results, arm, quantity), of_arm(results, against, quantity)
    return [one[seed] - other[seed] for seed in sorted(one.keys() & other.keys())]


def above(values: Sequence[float], bound: float) -> float:
    """The one-sided p-value that the mean of what the values are drawn from is no more than `bound` (Student's t).

    Runs that are equal in every seed are so; that they all differ by the same, by chance, says nothing of how much.

    >>> round(above([0.1, 0.2, 0.3], 0.0), 4), above([0.0, 0.0], -0.1), above([0.1, 0.1], 0.0), above([0.0, 0.0], 0.0)
    (0.0371, 0.0, 1.0, 1.0)
    """
    spread = float(np.std(values, ddof=1)) / len(values) ** 0.5
    gap = math.fsum(values) / len(values) - bound
    if spread < 1e-12:
        return 0.0 if not any(values) and gap > 1e-12 else 1.0
    return float(1 - stdtr(len(values) - 1, gap / spread))


def evidence(values: Sequence[float], comparison: Comparison) -> tuple[float, float]:
    """p-values for what a comparison expects, and for its contrary.

    A direction is tested on both sides, so that the values are those of the 95% interval. `same` is an equivalence
    test: two one-sided tests that the difference is within the margin (Schuirmann 1987). `no lower` is the one of them
    that it is above minus the margin.

    >>> same = Comparison(arm="a", against="b", expect="same", margin=0.2)
    >>> [round(p, 4) for p in evidence([0.01, -0.02, 0.0], same)]
    [0.001, 1.0]
    """
    negated, margin = [-value for value in values], comparison.distance
    no_lower, no_higher = above(values, -margin), above(negated, -margin)
    if comparison.expect == "same":
        return max(no_lower, no_higher), min(1.0, 2 * min(above(values, margin), above(negated, margin)))
    wanted, other = (values, negated) if comparison.expect in ("higher", "no lower") else (negated, values)
    if comparison.expect.startswith("no "):
        return above(wanted, -margin), min(1.0, 2 * above(other, margin))
    return min(1.0, 2 * above(wanted, margin)), min(1.0, 2 * above(other, -margin))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction: each times how many are not smaller, and never less than those before it.

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    out, least = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[place]))
        out[place] = least
    return out


@dataclass(frozen=True)
class Compared:
    """A comparison, its difference, and what it says; `p` is that of what it says, after Holm's correction.

    `without` counts the seeds that both arms were run with and of which one has no such number.
    """

    comparison: Comparison
    difference: Estimate
    verdict: Verdict
    p: float | None
    without: int = 0


@dataclass(frozen=True)
class Judged:
    """A claim and its verdict; `why` says what left it open."""

    claim: Claim
    compared: Sequence[Compared]
    verdict: Verdict
    why: str = ""


def judge(claim: Claim, study: Study, results: Sequence[Result]) -> Judged:
    """The verdict on a claim: it holds if all of its comparisons do, and does not if one is contradicted.

    The correction is over the comparisons of the claim, once for what they expect and once for the contrary. The
    contrary needs it, of which one is enough; to a claim whose comparisons must all hold it is stricter than need be.

    A run that lacks a number, since it was stopped or never reached a value, leaves the claim open: those that have it
    are not a fair choice. So does one that is still to be run: who looks after each seed finds something in the end.
    """
    pairs = [(one, one.arm, one.against or study.baseline) for one in claim.compare]
    values = [differences(results, *pair) for pair in pairs]
    both = [evidence(each, one) if len(each) > 1 else (1.0, 1.0) for each, (one, *_) in zip(values, pairs, strict=True)]
    for_it, against = holm([p for p, _ in both]), holm([p for _, p in both])
    runs = [len(seeds_of(results, arm, other)) for _, arm, other in pairs]
    gaps = [
        _gap(one.title, arm, other, len(each), count, len(study.seeds))
        for (one, arm, other), each, count in zip(pairs, values, runs, strict=True)
    ]
    compared = [
        _compared(one, each, ps, count - len(each), bool(gap))
        for (one, *_), each, count, gap, *ps in zip(pairs, values, runs, gaps, for_it, against, strict=True)
    ]
    steps = steps_of(results, {arm for _, *arms in pairs for arm in arms})
    early = f"it is about {claim.horizon} steps, and the runs have {steps}" if steps < claim.horizon else ""
    if why := next(filter(None, [*gaps, early]), ""):
        return Judged(claim, compared, "undecided", why)
    verdicts = {one.verdict for one in compared}
    if "does not hold" in verdicts:
        return Judged(claim, compared, "does not hold")
    if verdicts == {"holds"}:
        return Judged(claim, compared, "holds")
    open_ = [min(raw) for one, raw in zip(compared, both, strict=True) if one.verdict == "undecided"]
    by = "an interval leaves" if max(open_) >= LEVEL else "the correction for several comparisons leaves"
    return Judged(claim, compared, "undecided", f"{by} it open")


def _gap(title: str, arm: str, other: str, pairs: int, runs: int, seeds: int) -> str:
    """Which seeds are lacking to a comparison, in words; nothing where it has all, and two at least."""
    if runs < seeds:
        return f"{runs} of {seeds} seeds of {arm} and {other} so far"
    if pairs < runs:
        return f"with {runs - pairs} of {runs} seeds {arm} or {other} has no {title}"
    return f"fewer than two seeds have {title} of {arm} and of {other}" if pairs < 2 else ""


def _compared(one: Comparison, values: Sequence[float], ps: Sequence[float], without: int, open_: bool) -> Compared:
    for_it, against = ps
    verdict: Verdict = "holds" if for_it < LEVEL else "does not hold" if against < LEVEL else "undecided"
    p = against if verdict == "does not hold" else for_it
    return Compared(one, estimate(values), "undecided" if open_ else verdict, None if open_ else p, without)


def seeds_of(results: Sequence[Result], *arms: str) -> set[int]:
    """The seeds that all of these arms were run with."""
    return set.intersection(*({result.seed for result in results if result.arm == arm} for arm in arms))


def steps_of(results: Sequence[Result], arms: Set[str]) -> int:
    """How many steps all of these arms have, in their longest runs."""
    return min(max((result.step for result in results if result.arm == arm), default=0) for arm in arms)


def starts(results: Sequence[Result], quantity: Quantity) -> Estimate:
    """The quantity before training, over the seeds; nothing where the arms of a seed do not begin with the same.

    Nothing of a change either.
    """
    if quantity.change:
        return estimate([])
    found: dict[int, set[float]] = {}
    for result in results:
        if (value := result.start(quantity)) is not None:
            found.setdefault(result.seed, set()).add(value)
    same = all(len(values) == 1 for values in found.values())
    return estimate([min(found[seed]) for seed in sorted(found)] if same else [])
