"""Every example in the documentation runs, every table that shows code equals it, every recipe is one."""

from __future__ import annotations

import doctest
import re

import pytest
from conftest import ROOT

from sieverl.algorithms import ALGORITHMS
from sieverl.algorithms.describe import markdown
from sieverl.errors import UsageError
from sieverl.recipe import build, load
from sieverl.training.setup import chosen_algorithm, left_out


@pytest.mark.parametrize("page", ["algorithms.md"])
def test_examples_run(page):
    assert doctest.testfile(str(ROOT / "docs" / page), module_relative=False, verbose=False).failed == 0


def test_the_table_of_algorithms_is_the_page():
    assert markdown() in (ROOT / "docs" / "algorithms.md").read_text()


@pytest.mark.parametrize("name", ["paper.toml", "as_released.toml"])
@pytest.mark.parametrize("algorithm", [*ALGORITHMS])
def test_M15_recipes_take_every_algorithm_they_can_and_say_what_they_leave_out(name, algorithm):
    recipe = load(ROOT / "recipes" / name, {"algorithm": algorithm})
    if name == "paper.toml":
        assert left_out(recipe, chosen_algorithm(recipe)) == ""
    elif algorithm == "iterative_dpo":
        named = "axes.shape, axes.aggregate, axes.denominator, axes.dual_clip, axes.penalty_denominator; leave them out"
        with pytest.raises(UsageError, match=named):
            chosen_algorithm(recipe)
    else:
        line = {"raft": "log_prob", "rloo": "log_prob", "remax": "log_prob", "cispo": "ClippedWeight(high=4.0)"}
        value, shown = chosen_algorithm(recipe), line.get(algorithm)
        expected = f"axes.dual_clip does not apply to {algorithm} ({shown}) and is left out" if shown else ""
        assert left_out(recipe, value) == expected
    if name == "as_released.toml" and algorithm in ("reinforce_rej", "grpo"):
        value = chosen_algorithm(recipe)
        assert value.penalises_sampled
        assert value.objective.dual == 3.0
        assert value.credit([[1, 0]]).advantage.tolist()[0][1] <= 0
        assert {p.denominator for p in value.penalties} == {"sampled"}


def test_the_recipes_tell_released_from_paper():
    paper, released = (
        chosen_algorithm(load(ROOT / "recipes" / f"{name}.toml")).credit([[1, 0, 0, 0]]).advantage.tolist()
        for name in ("paper", "as_released")
    )
    assert paper == [[1, -1, -1, -1]]
    assert released == [[1, 0, 0, 0]], "as released, wrong answers weigh nothing"


def test_the_readme_says_what_is():
    text = (ROOT / "README.md").read_text()
    head = "\n".join(text.splitlines()[:30])
    assert "make demo" in head
    assert "make test" in head
    for target in re.findall(r"\]\((docs/[^)]+)\)", text):
        assert (ROOT / target).exists(), target
    toml = re.search(r"```toml\n(.*?)```", text, re.S).group(1)
    import tomllib

    assert build(tomllib.loads(toml)).rollout.samples == 8
    python = re.search(r"```python\n(.*?)```", text, re.S).group(1)
    scope: dict = {}
    exec(python, scope)
    assert scope["only_hard"].credit([[1, 1], [1, 0]]).keep.sum() == 2
