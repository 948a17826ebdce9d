"""The examples in the documentation run, its tables equal the code, and the shipped recipes do what they say."""

from __future__ import annotations

import re
import tomllib
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from doc_blocks import blocks

from sieverl.algorithms import ALGORITHMS, Algorithm, get_algorithm
from sieverl.algorithms import objective as obj
from sieverl.algorithms.credit import zero_one
from sieverl.algorithms.describe import markdown
from sieverl.algorithms.objective import Clipped, Penalty
from sieverl.errors import UsageError
from sieverl.recipe import Recipe, build, load
from sieverl.recipe.shipped import find
from sieverl.training.checks import chosen_algorithm, left_out
from sieverl.types import Responses

PAPER, RELEASED = find("paper"), find("as_released")


def test_the_table_of_algorithms_is_the_page() -> None:
    assert markdown() in (ROOT / "docs" / "algorithms.md").read_text()


# --- the recipes paper and as_released --------------------------------------------------------------

# The release's KL (k3, clamped at 10) and entropy bonus, over all sampled responses
PENALTIES = (Penalty(obj.K3(10.0), 0.001, "sampled"), Penalty(obj.negative_entropy, 0.001, "sampled"))
# Algorithms that clip no ratio, and so cannot take the release's dual clip, with their objective
NO_CLIP = {"raft": "log_prob", "rloo": "log_prob", "remax": "log_prob", "cispo": "ClippedWeight(high=4.0)"}


def recipe_of(path: Path, algorithm: str) -> Recipe:
    return load(path, {"algorithm": algorithm})


@pytest.mark.parametrize("name", ALGORITHMS)
def test_M15_the_paper_recipe_changes_no_axis(name: str) -> None:
    recipe = recipe_of(PAPER, name)
    value = chosen_algorithm(recipe)
    assert value == get_algorithm(name)
    assert left_out(recipe, value) == ""


def as_released(name: str) -> Algorithm:
    """What the axes of the recipe as_released make of an algorithm, written out."""
    own = get_algorithm(name)
    changed = replace(
        own, shape=zero_one, aggregate=obj.token_mean, denominator="sampled", penalties=(*own.penalties, *PENALTIES)
    )
    if name in NO_CLIP:
        return changed
    assert isinstance(own.objective, Clipped)
    return replace(changed, objective=Clipped(own.objective.low, own.objective.high, dual=3.0))


@pytest.mark.parametrize("name", [name for name in ALGORITHMS if name != "iterative_dpo"])
def test_M15_as_released_changes_the_axes_it_names_and_says_what_it_leaves_out(name: str) -> None:
    recipe = recipe_of(RELEASED, name)
    value = chosen_algorithm(recipe)
    assert value == as_released(name)
    assert value.penalises_sampled, "so every response is computed"
    objective = NO_CLIP.get(name)
    line = f"axes.dual_clip does not apply to {name} ({objective}) and is left out" if objective else ""
    assert left_out(recipe, value) == line


def test_M15_as_released_names_every_axis_that_pairs_cannot_take() -> None:
    named = "axes.shape, axes.aggregate, axes.denominator, axes.dual_clip, axes.penalty_denominator; leave them out"
    with pytest.raises(UsageError, match=named):
        chosen_algorithm(recipe_of(RELEASED, "iterative_dpo"))


# One prompt, one right and three wrong responses: rewards 1, 0, 0, 0 as released and 1, -1, -1, -1 in the paper.
# The z-score does not depend on which of the two it gets: (1 - 1/4) / (1/2 + 1e-6).
UP, DOWN = 0.75 / 0.500001, -0.25 / 0.500001
UP_SIGNED, DOWN_SIGNED = 1.5 / 1.000001, -0.5 / 1.000001


@pytest.mark.parametrize(
    ("name", "paper", "released"),
    [
        ("reinforce", [1, -1, -1, -1], [1, 0, 0, 0]),
        ("reinforce_rej", [1, -1, -1, -1], [1, 0, 0, 0]),
        ("reinforce_mean", [1.5, -0.5, -0.5, -0.5], [0.75, -0.25, -0.25, -0.25]),
        ("rloo", [2, -2 / 3, -2 / 3, -2 / 3], [1, -1 / 3, -1 / 3, -1 / 3]),
        ("grpo", [UP_SIGNED, DOWN_SIGNED, DOWN_SIGNED, DOWN_SIGNED], [UP, DOWN, DOWN, DOWN]),
        ("raft", [1, 1, 1, 1], [1, 1, 1, 1]),
    ],
)
def test_the_recipes_tell_released_from_paper(name: str, paper: list[float], released: list[float]) -> None:
    """As released, a wrong answer weighs nothing without a baseline, and half as much with one."""
    for path, expected in ((PAPER, paper), (RELEASED, released)):
        credit = chosen_algorithm(recipe_of(path, name)).credit([[1, 0, 0, 0]])
        np.testing.assert_allclose(credit.advantage, [expected], rtol=1e-12)


# --- README -----------------------------------------------------------------------------------------


def test_the_readme_is_short_and_starts_with_its_first_result() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 200
    head = "\n".join(lines[:30])
    assert "make demo" in head
    assert "make test" in head
    assert "](docs/demo.png)" in head


def test_the_examples_of_the_readme_say_what_they_should() -> None:
    by_file = {block.file: block.text for block in blocks(ROOT / "README.md") if block.file}
    assert build(tomllib.loads(by_file["gsm8k.toml"])).rollout.samples == 8
    scope: dict[str, Any] = {}
    exec(by_file["mine.py"], scope)
    assert scope["only_hard"].credit([[1, 1], [1, 0]]).keep.tolist() == [[False, False], [True, True]]


# --- pages of how-tos -------------------------------------------------------------------------------


def part(heading: str) -> str:
    """What stands below a heading of docs/my-algorithm.md."""
    return (ROOT / "docs" / "my-algorithm.md").read_text().partition(heading)[2].partition("\n## ")[0]


def test_the_fields_of_responses_are_those_of_the_page() -> None:
    named = re.findall(r"^\| `(\w+)` \|", part("### What a function gets"), re.MULTILINE)
    assert sorted(named) == sorted(field.name for field in fields(Responses))


def test_the_axes_are_those_of_the_page() -> None:
    cells = re.findall(r"^\| (`[^|]+) \|", part("## The axes"), re.MULTILINE)
    named = set(re.findall(r"`(\w+)`", " ".join(cells)))
    assert named == {field.name for field in fields(Algorithm)} - {"about", "paper", "critic", "whiten"}


def test_a_sieve_that_leaves_nothing_out_is_said() -> None:
    penalty = {"axes.kl_coefficient": 0.01}
    for name, more, line in (
        ("grpo", {}, ""),
        ("grpo", penalty, "the sieve leaves nothing out: grpo with its penalties learns from every group"),
        ("reinforce", {}, "the sieve leaves nothing out: reinforce learns from every group"),
    ):
        recipe = load(PAPER, {"algorithm": name, "axes.sieve": 0.5, **more})
        assert left_out(recipe, chosen_algorithm(recipe)) == line
