"""Estimates against hand-worked numbers and enumeration, intervals against tables and simulation."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from intervals import coverage

from sieverl.evaluation.statistics import majority, mean_interval, paired_interval, pass_at, scores, t95


@pytest.mark.parametrize("draws", [1, 2, 3, 5, 6])
def test_pass_at_is_the_share_of_subsets_with_a_correct_response(draws: int) -> None:
    for correct in range(7):
        right = [1] * correct + [0] * (6 - correct)
        subsets = list(combinations(right, draws))
        assert pass_at(np.array([correct]), 6, draws)[0] == pytest.approx(sum(map(any, subsets)) / len(subsets))


def test_pass_at_of_large_counts_is_exact() -> None:
    assert pass_at(np.array([1]), 1024, 512)[0] == 0.5
    assert pass_at(np.array([0, 1024]), 1024, 1).tolist() == [0.0, 1.0]


def test_pass_at_has_no_bias() -> None:
    """The mean over many runs of 6 samples is 1 - (1-p)^3, where the plug-in estimate from the share is too low."""
    correct_P = np.random.default_rng(0).binomial(6, 0.3, 200_000)
    truth = 1 - 0.7**3
    assert pass_at(correct_P, 6, 3).mean() == pytest.approx(truth, abs=3e-3)
    assert (1 - (1 - correct_P / 6) ** 3).mean() < truth - 0.02


def test_scores_by_hand() -> None:
    found = scores(np.array([0, 1, 4, 4]), np.array([False, True, True, True]), samples=4)
    assert list(found) == ["avg@4", "pass@1", "pass@2", "pass@4", "maj@4"]
    values = [round(value, 6) for value, _, _ in found.values()]
    assert values == [9 / 16, 9 / 16, (0 + 0.5 + 1 + 1) / 4, 3 / 4, 3 / 4]


def test_majority_ties_and_silence() -> None:
    assert majority(["a", "b", "b", "a"]) == 0
    assert majority(["a", "b", "c", "b"]) == 1
    assert majority([None, None, None, "z"]) == 3
    assert majority([None]) is None


def test_M14_student_t_against_the_table() -> None:
    for freedom, value in {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 9: 2.262, 29: 2.045, 99: 1.984}.items():
        assert t95(freedom) == pytest.approx(value, abs=5e-4)


@pytest.mark.parametrize("difference", [1.0, 0.25, -0.5, 0.1])
def test_M14_two_prompts_that_agree_give_a_width(difference: float) -> None:
    a_P = np.array([0.5, 0.5]) - difference / 2
    mean, low, high = paired_interval(a_P, a_P + difference)
    assert mean == pytest.approx(difference)
    assert low < 0 < high, "two prompts tell next to nothing"
    assert high - low > 0.9
    for value in (0.0, 0.3, 1.0):
        _, low, high = mean_interval(np.array([value, value]), samples=4)
        assert high - low > 0.5


@pytest.mark.parametrize("prompts", [2, 10, 30])
@pytest.mark.parametrize("samples", [1, 4])
@pytest.mark.parametrize("shape", [(1.0, 1.0), (0.5, 10.0)])
def test_M14_intervals_cover_as_documented(prompts: int, samples: int, shape: tuple[float, float]) -> None:
    for share in coverage(prompts, samples, shape, runs=400).values():
        assert 0.90 <= share <= 1.0


def test_interval_by_hand() -> None:
    """40 of 100 single responses: Wilson's interval with t = 1.984."""
    mean, low, high = mean_interval(np.array([1.0] * 40 + [0.0] * 60))
    t, n, p = 1.984, 100, 0.4
    half = t * (p * (1 - p) / n + t * t / (4 * n * n)) ** 0.5
    expected = [(p + t * t / (2 * n) + sign * half) / (1 + t * t / n) for sign in (-1, 1)]
    assert [low, high] == pytest.approx(expected, abs=1e-4)
    assert mean == 0.4


def test_interval_counts_prompts_and_not_responses() -> None:
    """Prompts that are all right or all wrong tell as much with 16 samples as with one."""
    clear = np.array([1.0, 0.0] * 15)
    assert mean_interval(clear, 16) == mean_interval(clear, 1)
    unsure = np.array([0.5, 0.4375, 0.5625] * 10)
    width = [high - low for _, low, high in (mean_interval(unsure, 16), mean_interval(clear, 16))]
    assert width[0] < width[1] / 3
    assert mean_interval(np.array([0.5]), 16)[1:] == (0.0, 1.0)


@pytest.mark.parametrize("prompts", [30, 200])
@pytest.mark.parametrize("samples", [1, 4, 16])
@pytest.mark.parametrize("shape", [(1.0, 1.0), (0.2, 0.2), (5.0, 5.0), (0.5, 10.0)])
def test_intervals_cover_the_truth_19_times_of_20(prompts: int, samples: int, shape: tuple[float, float]) -> None:
    """Prompts of many difficulties; the truth is the mean over all prompts there could be."""
    rng = np.random.default_rng(3)
    truth, runs = shape[0] / sum(shape), 2000
    value_RP = rng.binomial(samples, rng.beta(*shape, (runs, prompts))) / samples
    inside = [low <= truth <= high for _, low, high in (mean_interval(value_P, samples) for value_P in value_RP)]
    assert 0.92 <= np.mean(inside) <= 0.985
    if (prompts, samples, shape) == (30, 1, (0.5, 10.0)):  # what the usual mean +- 1.96 standard errors does here
        half_R = 1.96 * value_RP.std(1, ddof=1) / prompts**0.5
        assert np.mean(abs(value_RP.mean(1) - truth) <= half_R) < 0.82


def test_paired_interval_sees_what_separate_ones_do_not() -> None:
    rng = np.random.default_rng(0)
    a_P = rng.beta(0.5, 0.5, 200)
    b_P = np.clip(a_P + rng.normal(0.03, 0.05, 200), 0, 1)
    mean, low, high = paired_interval(a_P, b_P)
    assert 0 < low < mean < high < 0.05
    assert mean_interval(a_P, 16)[2] > mean_interval(b_P, 16)[1]
    assert paired_interval(b_P, a_P) == pytest.approx((-mean, -high, -low))


def test_paired_interval_covers_and_admits_ignorance() -> None:
    rng = np.random.default_rng(1)
    a_RP = rng.binomial(4, rng.beta(1, 1, (1000, 40))) / 4
    b_RP = rng.permuted(a_RP, axis=1)
    inside = [low <= 0 <= high for _, low, high in map(paired_interval, a_RP, b_RP)]
    assert np.mean(inside) > 0.92
    assert paired_interval(np.zeros(30), np.zeros(30)) == pytest.approx((0, -0.122, 0.122), abs=1e-3)
    assert paired_interval(np.zeros(1), np.ones(1)) == (1.0, -1.0, 1.0)
