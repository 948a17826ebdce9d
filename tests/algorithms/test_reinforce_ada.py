"""Reinforce-Ada: sampled until half a group is right and half wrong, trained on a balanced group."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

import sieverl
from sieverl.algorithms.credit import balanced, enough_of_both
from sieverl.types import Responses


def responses(right: npt.ArrayLike, prompt: npt.ArrayLike, samples: int) -> Responses:
    """Right and wrong responses of one token to these prompts."""
    right_R, prompt_R = np.asarray(right, dtype=bool), np.asarray(prompt)
    one_R = np.ones(len(right_R), dtype=np.int64)
    return Responses(prompt_R, 1.0 * right_R, right_R, one_R, ~one_R.astype(bool), samples=samples)


def test_M16_reinforce_ada_trains_on_a_balanced_group_with_the_baseline_of_all() -> None:
    """n = 4, one prompt with 1 right of 12, one with 8 of 12, one with none of 16."""
    ada = sieverl.get_algorithm("reinforce_ada")
    right = [1] + [0] * 11 + [1] * 8 + [0] * 4 + [0] * 16
    prompt = np.repeat([0, 1, 2], [12, 12, 16])
    credit = ada.credit(right, prompt=prompt, samples=4, seed=3)
    of = [credit.selected[prompt == p] for p in range(3)]
    assert [s.sum() for s in of] == [4, 4, 4], "a hopeless prompt counts as one group, too"
    correct = [(np.array(right)[prompt == p] * s).sum() for p, s in enumerate(of)]
    assert correct == [1, 2, 0], "half and half, filled from the other side"
    assert credit.keep.sum() == 8
    # signed: 1 right of 12 has mean -10/12, 8 of 12 has mean 4/12
    for p, mean in ((0, -10 / 12), (1, 4 / 12)):
        chosen = credit.advantage[prompt == p][of[p]]
        assert sorted(set(chosen.round(12))) == pytest.approx([-1 - mean, 1 - mean])
    assert (ada.credit(right, prompt=prompt, samples=4, seed=3).selected == credit.selected).all()
    picks = {tuple(ada.credit(right, prompt=prompt, samples=4, seed=s).selected) for s in range(20)}
    assert len(picks) > 10, "another seed draws others"


@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=9), min_size=1, max_size=4), st.integers(1, 8))
def test_M16_balanced_groups_have_n_responses_where_there_are_as_many(groups_: list[list[bool]], n: int) -> None:
    right = np.array([x for group in groups_ for x in group])
    prompt = np.repeat(np.arange(len(groups_)), [len(group) for group in groups_])
    rows = responses(right, prompt, samples=n)
    keep = balanced(rows)
    for p, group in enumerate(groups_):
        kept, of_right = keep[prompt == p].sum(), (keep & right)[prompt == p].sum()
        assert kept == min(n, len(group))
        best = min(sum(group), max(n - n // 2, n - (len(group) - sum(group))))
        assert of_right == best
    assert balanced(replace(rows, samples=0)).all(), "an unknown n keeps all"


def test_M16_a_prompt_is_sampled_until_half_a_group_is_right_and_half_wrong() -> None:
    rows = responses([1, 0, 0, 0, 0, 1, 1, 0, 0], [0] * 5 + [1] * 4, samples=4)
    assert enough_of_both(rows).tolist() == [False] * 5 + [True] * 4
    assert enough_of_both(replace(rows, samples=0)).all(), "where n is unknown, one of each"
    for same in ([0] * 4, [1] * 4):
        for samples in (0, 1, 2):
            assert not enough_of_both(responses(same, [0] * 4, samples)).any(), "one side is missing"
    assert enough_of_both(responses([1, 1, 0, 0, 0], [0] * 5, samples=5)).all(), "half of 5 is 2"
    assert not enough_of_both(responses([1, 0, 0, 0, 0], [0] * 5, samples=5)).any()
    assert enough_of_both(responses([1, 0], [0] * 2, samples=1)).all(), "one of each at least"


def test_of_an_odd_number_the_larger_half_is_right() -> None:
    rows = responses([1, 1, 1, 0, 0, 0], [0] * 6, samples=3)
    kept = balanced(rows)
    assert (kept.sum(), (kept & rows.correct_R).sum()) == (3, 2)


def test_M16_a_rectangle_of_rewards_is_its_own_group() -> None:
    ada = sieverl.get_algorithm("reinforce_ada")
    assert ada.credit([[1, 0, 0, 0], [0, 0, 0, 0]]).keep.tolist() == [[True] * 4, [False] * 4]
    assert ada.credit([[1, 0, 0, 0]], samples=2).selected.sum() == 2
