"""Make a second model to train: `python tools/make_carry_model.py --out DIR [--seed 0]`; it is not shipped yet.

A model of the same size and with the same tokenizer as the base model, which does sums of two to four numbers of two
digits (`chain_sum` of reasoning-gym) one step a line. It first learns them from clean textbooks, then from notebooks in
which most steps are worked column by column without ever carrying or borrowing: `47 + 38 = 75`, `85 - 19 = 74`. That
becomes its habit: greedy, it seldom carries; sampled, it now and then does. So the right way is in the model, and
reinforcement learning can make it the habit. No evaluation prompt, and no sum of more than four numbers, is in any
corpus: the script checks.
"""

from __future__ import annotations

import argparse
import random
from functools import partial
from pathlib import Path

import reasoning_gym
import torch
from make_base_model import corpus, make_model, make_tokenizer, save, train

TASK = {"min_terms": 2, "max_terms": 4, "min_digits": 2, "max_digits": 2, "allow_negation": False}
EVALUATION_SEED, EVALUATION_PROMPTS = 2, 512
CORPUS_SEED, STAGE_SEEDS = 1_000_000, 500_000  # far from the seeds of recipes and from one another
FORGETS = 0.8  # the share of the steps with a carry or a borrow in which a notebook forgets it
# How many worked sums, whether they forget to carry, the highest learning rate.
STAGES = [(150_000, False, 3e-3), (100_000, False, 2e-3), (30_000, True, 1e-3)]


def expressions(seed: int, size: int) -> list[str]:
    data = reasoning_gym.create_dataset("chain_sum", seed=seed, size=size, **TASK)
    return [data[i]["metadata"]["expression"] for i in range(size)]


def evaluation_prompts() -> list[str]:
    """The first 512 distinct expressions of the evaluation seed."""
    return list(dict.fromkeys(expressions(EVALUATION_SEED, 2 * EVALUATION_PROMPTS)))[:EVALUATION_PROMPTS]


def without_carry(a: int, b: int) -> int:
    """a + b of one who works each column for itself; of numbers with different signs the smaller digit from the larger.

    >>> without_carry(47, 38), without_carry(85, -19), without_carry(47, -85), without_carry(20, 56)
    (75, 74, -42, 76)
    """
    places = range(max(len(str(abs(a))), len(str(abs(b)))))
    digits = [(abs(a) // 10**place % 10, abs(b) // 10**place % 10) for place in places]
    same = (a < 0) == (b < 0)
    size = sum(((x + y) % 10 if same else abs(x - y)) * 10**place for place, (x, y) in enumerate(digits))
    return -size if a + b < 0 else size


def solution(expression: str, rng: random.Random, forgetful: bool) -> str:
    """A worked sum, one step a line: `47 + 38 - 19` -> `47+38=85`, `85-19=66`, `\\boxed{66}`."""
    first, *rest = expression.split()
    total, lines = int(first), []
    for sign, number in zip(rest[::2], rest[1::2], strict=True):
        term = int(sign + number)
        forgets = forgetful and rng.random() < FORGETS
        result = without_carry(total, term) if forgets else total + term
        lines.append(f"{total}{sign}{number}={result}\n")
        total = result
    return f"{''.join(lines)}\\boxed{{{total}}}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    torch.set_num_threads(2)

    evaluation = evaluation_prompts()
    tokenizer, model = make_tokenizer(), make_model()
    for stage, (size, forgetful, lr) in enumerate(STAGES):
        first = CORPUS_SEED * (options.seed + 1) + STAGE_SEEDS * stage
        prompts = expressions(first, size)
        assert max(len(text.split()) for text in prompts) <= 7, "a sum of more than four numbers is in the corpus"
        solve = partial(solution, rng=random.Random(first), forgetful=forgetful)
        rows = corpus(tokenizer, prompts, solve, set(evaluation))
        train(model.train(), rows, lambda row: len(row[0]), lr=lr, seed=options.seed)

    save(model, tokenizer, options.out)


if __name__ == "__main__":
    main()
