"""What is believed of a prompt, and what its group is worth: against SciPy's beta-binomial and by enumeration."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import betabinom

from sieverl.algorithms import ALGORITHMS, get_algorithm
from sieverl.algorithms.axes import with_axes
from sieverl.algorithms.objective import Penalty, k2
from sieverl.algorithms.sieve import Belief, Sieve, Teaches, teaches, with_sieve
from sieverl.errors import UsageError

counts = st.floats(0.05, 30)


@given(counts, counts, st.integers(0, 12))
def test_chances_are_those_of_a_beta_binomial(right: float, wrong: float, n: int) -> None:
    belief = Belief(right, wrong)
    assert belief.all_right(n) == pytest.approx(betabinom.pmf(n, n, right, wrong) if n else 1.0)
    assert belief.all_wrong(n) == pytest.approx(betabinom.pmf(0, n, right, wrong) if n else 1.0)


@given(counts, counts, st.integers(1, 4), st.integers(1, 4))
def test_the_chance_of_a_group_is_consistent_over_its_first_responses(
    a: float, b: float, first: int, rest: int
) -> None:
    """The chance before any is that of being mixed already, or alike so far and mixed in the end."""
    mixed = Teaches(False, False)
    before, n = Belief(a, b), first + rest
    after = sum(
        chance * mixed.chance(Belief(a + first * right, b + first * (not right)), rest, right)
        for right, chance in ((True, before.all_right(first)), (False, before.all_wrong(first)))
    )
    at_once = 1 - before.all_right(first) - before.all_wrong(first)
    assert mixed.chance(before, n) == pytest.approx(at_once + after, abs=1e-9)


def test_which_uniform_groups_teach_is_asked_of_the_algorithm() -> None:
    found = {name: tuple(teaches(value, 4)) for name, value in ALGORITHMS.items()}
    neither = ("reinforce_rej", "reinforce_rej_std", "grpo", "dapo", "gspo", "rloo", "iterative_dpo", "reinforce_ada")
    assert {found[name] for name in neither} == {(False, False)}
    only_right = ("raft", "raft_pp", "raft_is", "reinforce_drop_wrong")
    assert {found[name] for name in only_right} == {(False, True)}
    assert found["reinforce_drop_correct"] == (True, False)
    for name in ("reinforce", "ppo", "remax", "reinforce_pp"):
        assert found[name] == (True, True), "the sieve has nothing to leave out"
    kept = replace(get_algorithm("grpo"), penalties=(Penalty(k2, 0.1, denominator="sampled"),))
    assert teaches(kept, 4) == (True, True), "a penalty over all sampled responses needs them all"
    assert teaches(get_algorithm("raft"), 1) == (False, True)
    overlong = with_axes(get_algorithm("grpo"), {"shape": "overlong"})
    assert teaches(overlong, 4) == (True, True), "answers of other lengths have other rewards"
    assert teaches(with_axes(get_algorithm("reinforce_rej"), {"shape": "overlong"}), 4) == (False, False)


def test_a_group_that_always_teaches_is_certain() -> None:
    assert Teaches(True, True).chance(Belief(0.1, 9), 8) == 1.0
    assert Teaches(False, True).chance(Belief(1, 1), 3, right=True) == 1.0
    assert Teaches(False, True).chance(Belief(1, 1), 1, right=False) == 0.5


def test_the_sieve_is_an_axis_of_every_algorithm() -> None:
    dapo = with_axes(get_algorithm("dapo"), {"sieve": 0.2, "sieve_explore": 0.05})
    assert dapo.sampling.sieve == Sieve(threshold=0.2, explore=0.05)
    assert dapo.sampling.fresh_prompts, "its own sampling stays"
    mine = with_sieve(get_algorithm("grpo"), first=1.0)
    assert with_axes(mine, {"sieve_explore": 0.5}).sampling.sieve == Sieve(first=1.0, explore=0.5)
    with pytest.raises(UsageError, match=r"axes\.sieve_explore changes nothing without axes\.sieve"):
        with_axes(get_algorithm("grpo"), {"sieve_explore": 0.5})
    assert with_sieve(get_algorithm("grpo"), first=1.0, skip=True).sampling.sieve == Sieve(first=1.0)
    for algorithm in ALGORITHMS.values():
        assert algorithm.sampling.sieve is None


@pytest.mark.parametrize(("field", "value"), [("threshold", 1.1), ("explore", -0.1), ("first", 0.0), ("discount", 0.0)])
def test_what_cannot_be_is_refused(field: str, value: float) -> None:
    with pytest.raises(UsageError, match=rf"sieve\.{field} is {value}; it must be"):
        Sieve(**{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("first", "samples", "count"),
    [(0.5, 8, 4), (0.5, 1, 1), (0.01, 8, 2), (1.0, 8, 8), (0.5, 3, 2), (0.375, 2, 2), (0.375, 4, 2), (0.375, 8, 3)],
)
def test_how_many_come_first(first: float, samples: int, count: int) -> None:
    assert Sieve(first=first).first_of(samples) == count
