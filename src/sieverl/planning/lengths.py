"""How long responses are: lognormal, with a mean and a tail, cut at the limit."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist

from sieverl.errors import UsageError

NINETY_NINE = NormalDist().inv_cdf(0.99)
LONGEST_TAIL = math.exp(NINETY_NINE**2 / 2)  # of a lognormal distribution: about 15


@dataclass(frozen=True)
class Lengths:
    """Response lengths: their `mean` in tokens, `tail` = 99th percentile / mean before the cut, `limit` = max_tokens.

    `tail` 1 means that all are equally long; a geometric distribution has 4.6.
    """

    mean: float
    tail: float
    limit: int

    def __post_init__(self) -> None:
        if not 1 <= self.mean <= self.limit:
            raise UsageError(
                f"--response-tokens is {self.mean:g}; the mean length lies between 1 and rollout.max_tokens = "
                f"{self.limit}"
            )
        if not 1 <= self.tail <= LONGEST_TAIL:
            raise UsageError(
                f"--tail is {self.tail:g}; the 99th percentile divided by the mean lies between 1 and "
                f"{LONGEST_TAIL:.1f}"
            )

    @property
    def sigma(self) -> float:
        """The spread of log lengths: p99 / mean = exp(2.33 sigma - sigma^2 / 2)."""
        return NINETY_NINE - math.sqrt(max(0.0, NINETY_NINE**2 - 2 * math.log(self.tail)))

    @property
    def square(self) -> float:
        """The mean of the squared lengths, which attention costs."""
        lengths = self.sample(1000)
        return sum(n * n for n in lengths) / len(lengths)

    def sample(self, count: int) -> list[int]:
        """`count` lengths at equally likely quantiles, in a fixed random order, with the mean asked for.

        >>> lengths = Lengths(100, 4, 512).sample(1000)
        >>> round(sum(lengths) / 1000), max(lengths)
        (100, 512)
        """
        return list(_sample(self.mean, self.sigma, self.limit, count))


@cache
def _sample(mean: float, sigma: float, limit: int, count: int) -> tuple[int, ...]:
    normal = NormalDist()
    factors = [math.exp(sigma * normal.inv_cdf((i + 0.5) / count)) for i in range(count)]
    low, high = 0.0, float(limit) * 1e3  # the cut lowers the mean, so the median is found by bisection
    for _ in range(34):
        median = (low + high) / 2
        found = sum(min(limit, max(1.0, median * f)) for f in factors) / count
        low, high = (median, high) if found < mean else (low, median)
    lengths = [min(limit, max(1, round(high * f))) for f in factors]
    random.Random(count).shuffle(lengths)
    return tuple(lengths)
