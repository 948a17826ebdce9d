"""The numbers of a chart: where an axis begins and ends, what stands on it, and which points of many are drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence

Limits = tuple[float | None, float | None]
HUGE = 1e200  # nothing is measured beyond


def real(value: float | None) -> float | None:
    """The number, or None for one that is missing, NaN or infinite.

    >>> real(0.5), real(float("nan")), real(None)
    (0.5, None, None)
    """
    return None if value is None or not abs(value) < HUGE else float(value)


def padded(values: Sequence[float], limits: Limits) -> tuple[float, float]:
    """The edges of an axis: the limits, and where there is none the data and a little room.

    >>> padded([0.25, 0.75], (0.0, 1.0)), padded([0.0, 1.0], (None, None)), padded([2.0], (0.0, None))
    ((0.0, 1.0), (-0.06, 1.06), (0.0, 2.12))
    """
    low, high = (limit if limit is not None else of(values) for limit, of in zip(limits, (min, max), strict=True))
    if high - low <= 1e-9 * max(abs(low), abs(high)):  # flat
        half = abs(low) * 0.1 or 0.5
        return (low if limits[0] is not None else low - half), high + half
    room = 0.06 * (high - low)
    return (low if limits[0] is not None else low - room), (high if limits[1] is not None else high + room)


def ticks(low: float, high: float, most: int = 5, whole: bool = False) -> list[float]:
    """Round numbers from `low` to `high`, in steps of 1, 2 or 5 times a power of ten.

    >>> ticks(0, 1), ticks(0, 30), ticks(1, 3, whole=True)
    ([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], [0.0, 10.0, 20.0, 30.0], [1.0, 2.0, 3.0])
    """
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next((power * m for m in (1, 2, 5) if power * m >= raw * (1 - 1e-9)), power * 10)
    step = max(1.0, step) if whole else step
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


def shown(value: float, percent: bool = False) -> str:
    """A number as people write it.

    >>> shown(0.25, True), shown(0.3333, True), shown(12.0), shown(12345), shown(1234567), shown(2.5e-7)
    ('25%', '33.3%', '12', '12,345', '1.235M', '2.5e-07')
    """
    if percent:
        return f"{value:.1%}".replace(".0%", "%")
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if size <= abs(value) < 1e15:
            return f"{value / size:.4g}{letter}"
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e6 else f"{value:.4g}"


def chosen(places: Sequence[int], y: Sequence[float | None], most: int) -> list[int]:
    """At most about `most` of the places: the first, the last, and of each stretch the lowest and the highest.

    >>> chosen(range(6), [0, 3, 1, 1, 9, 2], 2)
    [0, 4, 5]
    """
    if len(places) <= most:
        return list(places)
    size = math.ceil(2 * len(places) / most)
    stretches = (places[i : i + size] for i in range(0, len(places), size))
    return sorted({places[0], places[-1]}.union(*(_extremes(stretch, y) for stretch in stretches)))


def _extremes(stretch: Sequence[int], y: Sequence[float | None]) -> set[int]:
    """The places of the lowest and the highest value; the first place where there is none."""
    found = [(value, i) for i in stretch if (value := y[i]) is not None]
    return {min(found)[1], max(found)[1]} if found else {stretch[0]}
