"""The credit of one step's responses, as the loop assigns it and as a replay computes it again."""

from __future__ import annotations

from dataclasses import replace

from sieverl.algorithms.algorithm import Algorithm
from sieverl.engines.noise import derived_seed
from sieverl.recipe import Recipe
from sieverl.types import Credit, Responses


def credit_of(recipe: Recipe, algorithm: Algorithm, responses: Responses, step: int, graded: bool) -> Credit:
    """Keep and advantage of every response of a step, the first of which is 1; `graded` is settled for the run."""
    greedy = responses.greedy and replace(responses.greedy, graded=graded)
    seed = derived_seed(recipe.seed, step - 1)
    credit = algorithm.credit(replace(responses, seed=seed, graded=graded, greedy=greedy))
    if recipe.train.mask_truncated:
        whole_R = ~responses.truncated_R
        credit = replace(credit, keep=credit.keep & whole_R, selected=credit.selected & whole_R)
    return credit
