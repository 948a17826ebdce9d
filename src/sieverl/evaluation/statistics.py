"""avg@k, pass@k and maj@k with 95% intervals that treat each prompt as one observation.

The samples of a prompt are correlated: 16 samples of 30 prompts are not 480 independent trials. Legend: P prompts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from math import comb

import numpy as np
from scipy.special import stdtrit

from sieverl.types import BoolArray, FloatArray, IntArray

Interval = tuple[float, float, float]


def t95(freedom: int) -> float:
    """The 97.5% point of Student's t.

    >>> round(t95(1), 2), round(t95(9), 2), round(t95(29), 3)
    (12.71, 2.26, 2.045)
    """
    return float(stdtrit(freedom, 0.975))


def mean_interval(value_P: FloatArray, samples: float = 1) -> Interval:
    """Mean over prompts of values in [0, 1] and its 95% interval: (mean, low, high), each prompt one cluster.

    Wilson's interval with the effective number of responses, mean (1 - mean) / variance for each prompt, and Student's
    t over the prompts (Dean and Pagano 2015; for evaluations of language models Miller 2024, arXiv 2411.00640). Unlike
    mean +- 1.96 standard errors it holds for 30 prompts, stays within [0, 1] and does not collapse to a point when all
    are correct or all are wrong. `samples` is the largest number of independent trials per prompt. One prompt says
    nothing about others: [0, 1].

    >>> [round(x, 3) for x in mean_interval(np.array([1.0, 0.0, 0.5, 0.5] * 25), samples=2)]
    [0.5, 0.431, 0.569]
    >>> [round(x, 3) for x in mean_interval(np.zeros(30))]
    [0.0, 0.0, 0.122]
    """
    prompts, mean, variance = len(value_P), float(value_P.mean()), float(value_P.var())
    if prompts == 1:
        return mean, 0.0, 1.0
    worth = 1.0 if mean in (0.0, 1.0) else samples
    if variance > 1e-12:
        worth = min(worth, mean * (1 - mean) / variance)
    n, t = prompts * worth, t95(prompts - 1)
    centre = (mean + t * t / (2 * n)) / (1 + t * t / n)
    half = t / (1 + t * t / n) * (max(0.0, mean * (1 - mean)) / n + t * t / (4 * n * n)) ** 0.5
    return mean, min(mean, max(0.0, centre - half)), max(mean, min(1.0, centre + half))


def over_seeds(values: Sequence[float]) -> tuple[float | None, float | None, float | None]:
    """The mean and its 95% interval (Student's t); one value has none.

    >>> [round(x or 0, 3) for x in over_seeds([0.5, 0.6, 0.7])], over_seeds([0.5]), over_seeds([])
    ([0.6, 0.352, 0.848], (0.5, None, None), (None, None, None))
    """
    if len(values) < 2:
        return (values[0] if values else None), None, None
    mean = float(np.mean(values))
    half = t95(len(values) - 1) * float(np.std(values, ddof=1)) / len(values) ** 0.5
    return mean, mean - half, mean + half


def paired_interval(a_P: FloatArray, b_P: FloatArray) -> Interval:
    """Mean of b - a over the same prompts and its 95% interval, paired by prompt (Student's t).

    If all prompts differ by the same amount (zero, say), the interval is what `mean_interval` allows for the share of
    prompts that differ by another. One prompt says nothing about others: [-1, 1].

    >>> [round(x, 3) for x in paired_interval(np.array([0.0, 0.5, 0.5, 1.0]), np.array([0.5, 0.5, 1.0, 1.0]))]
    [0.25, -0.209, 0.709]
    """
    difference_P = b_P - a_P
    mean = float(difference_P.mean())
    if len(difference_P) == 1:
        return mean, -1.0, 1.0
    if float(np.ptp(difference_P)) < 1e-12:
        half = mean_interval(np.zeros(len(difference_P)))[2] * (1 + abs(mean))  # as far as another prompt can be
    else:
        half = t95(len(difference_P) - 1) * float(difference_P.std(ddof=1)) / len(difference_P) ** 0.5
    return mean, max(-1.0, mean - half), min(1.0, mean + half)


def pass_at(correct_P: IntArray, samples: int, draws: int) -> FloatArray:
    """The chance that one of `draws` of a prompt's `samples` responses is correct: 1 - C(n-c, j) / C(n, j).

    `correct_P` are counts, the result is float64 [P]. The unbiased estimate of pass@j (Chen et al. 2021, arXiv
    2107.03374), in exact integers.

    >>> pass_at(np.array([0, 1, 2, 4]), samples=4, draws=2).tolist()
    [0.0, 0.5, 0.8333333333333334, 1.0]
    """
    ways = comb(samples, draws)
    table = [(ways - comb(samples - correct, draws)) / ways for correct in range(samples + 1)]
    return np.array(table)[correct_P]


def majority(answers: Sequence[Hashable | None]) -> int | None:
    """The first response that gives the most common answer; None when no response gives one.

    Of equally common answers the one given first wins, so that one sample's majority is that sample.

    >>> majority(["4", None, None, "5", "5"]), majority(["4", "5"]), majority([None])
    (3, 0, None)
    """
    votes = Counter(answer for answer in answers if answer is not None)
    return answers.index(max(votes, key=lambda answer: votes[answer])) if votes else None


def scores(correct_P: IntArray, majority_P: BoolArray, samples: int) -> dict[str, Interval]:
    """avg@k, pass@1, 2, 4, ..., k and maj@k with their intervals, from counts and from whether the majority is right.

    >>> list(scores(np.array([0, 3]), np.array([False, True]), samples=6))
    ['avg@6', 'pass@1', 'pass@2', 'pass@4', 'pass@6', 'maj@6']
    """
    draws = sorted({2**i for i in range(samples.bit_length())} | {samples})
    found = {f"avg@{samples}": mean_interval(correct_P / samples, samples)}
    found |= {f"pass@{j}": mean_interval(pass_at(correct_P, samples, j), samples / j) for j in draws}
    return found | {f"maj@{samples}": mean_interval(majority_P.astype(float))}
