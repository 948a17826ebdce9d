"""Curves and bars of characters."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

LEVELS = "▁▂▃▄▅▆▇█"


def spark(values: Sequence[float], width: int) -> str:
    """A curve of at most `width` characters from the lowest value to the highest; each is the mean of some values.

    >>> spark([0, 1, 2, 3, 4, 5, 6, 7], 8), spark([0, 0, 7, 7], 2), spark([3, 3], 8), spark([], 8)
    ('▁▂▃▄▅▆▇█', '▁█', '▄▄', '')
    """
    count = min(width, len(values))
    ends = [len(values) * i // count for i in range(count + 1)] if count else []
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(ends)]
    low, high = min(means, default=0.0), max(means, default=0.0)
    if low == high:
        return LEVELS[3] * count
    return "".join(LEVELS[min(7, int(8 * (x - low) / (high - low)))] for x in means)


def lengths(shares: Sequence[float], width: int) -> list[int]:
    """The lengths of the parts of a bar of `width` characters; what is not nothing has one at least.

    >>> lengths([0.001, 0.5, 0.499], 10), lengths([0, 2, 2], 10), lengths([0, 0], 10)
    ([1, 4, 5], [0, 5, 5], [0, 0])
    """
    total = sum(shares)
    if total <= 0:
        return [0 for _ in shares]
    found = [max(1, round(width * share / total)) if share > 0 else 0 for share in shares]
    found[found.index(max(found))] += width - sum(found)
    return found
