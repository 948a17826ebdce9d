"""Make the second model that ships: `python tools/make_hasty_model.py [--out DIR] [--seed 0]`, from the base model.

The hasty model knows how to work out `basic_arithmetic` one step a line, but seldom does: it has read the notebooks of
a pupil who mostly blurts a number, or reads from left to right without precedence, or stops a step early. So the right
way is in the model and is not its habit: greedy, it blurts. The base model first reads more clean textbooks, then
these notebooks. Some six minutes on 2 idle cores. No evaluation prompt is in any corpus: the script checks.
"""

from __future__ import annotations

import argparse
import ast
import random
from functools import partial
from pathlib import Path

import torch
from make_base_model import (
    CALCULATE,
    CORPUS_SEED,
    SIGNS,
    STAGE_SEEDS,
    corpus,
    evaluation_prompts,
    expressions,
    left_to_right,
    make_tokenizer,
    measure,
    save,
    slip,
    solution,
    train,
)
from transformers import Qwen2ForCausalLM

ASSETS = Path(__file__).parents[1] / "src/sieverl/assets"
# How many worked solutions, whether they are those of the hasty pupil, the highest learning rate.
STAGES = [(90_000, False, 1.5e-3), (26_000, True, 1e-3)]
BLURTS, LEFT_TO_RIGHT, STOPS_EARLY = 0.6, 0.15, 0.1  # the shares of its notebooks; the rest is worked out
OFF_BY = (0, 1, -1, 2, -2, 5, -5, 10, -10)  # of a blurted number
SLIPS = 0.05  # of a step's results


def steps(expression: str, rng: random.Random) -> tuple[list[str], int]:
    """The lines of a worked expression, and its result."""
    lines: list[str] = []

    def work(node: ast.expr) -> int:
        if not isinstance(node, ast.BinOp):
            return ast.literal_eval(node)
        a, b, op = work(node.left), work(node.right), SIGNS[type(node.op)]
        value = slip(rng, a, op, b) if rng.random() < SLIPS else CALCULATE[op](a, b)
        lines.append(f"{a}{op}{b}={value}\n")
        return value

    result = work(ast.parse(expression, mode="eval").body)
    return lines, result


def hasty(expression: str, rng: random.Random) -> str:
    """A page of the pupil's notebook: `2+3*4` -> `\\boxed{13}`, or `2+3=5`, `5*4=20`, `\\boxed{20}`, or worked out."""
    habit = rng.random()
    if habit < BLURTS:
        return f"\\boxed{{{eval(expression) + rng.choice(OFF_BY)}}}"  # noqa: S307 (a sum that the tools made)
    habit -= BLURTS
    lines, answer = steps(left_to_right(expression) if habit < LEFT_TO_RIGHT else expression, rng)
    if 0 <= habit - LEFT_TO_RIGHT < STOPS_EARLY and len(lines) > 1:
        lines.pop()
        answer = int(lines[-1].split("=")[1])
    return f"{''.join(lines)}\\boxed{{{answer}}}"


textbook = partial(solution, careless=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ASSETS / "hasty")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    torch.set_num_threads(2)

    evaluation = evaluation_prompts()
    tokenizer = make_tokenizer()
    model = Qwen2ForCausalLM.from_pretrained(ASSETS / "base", dtype=torch.float32)
    for stage, (size, notebooks, lr) in enumerate(STAGES, 3):  # the base model has read the corpora before
        first = CORPUS_SEED * (options.seed + 1) + STAGE_SEEDS * stage
        solve = partial(hasty if notebooks else textbook, rng=random.Random(first))
        rows = corpus(tokenizer, expressions(first, size), solve, set(evaluation))
        # Sorted by its prompt: sorting by the response would make what is blurted weigh more.
        length = (lambda row: row[1]) if notebooks else (lambda row: len(row[0]))
        train(model.train(), rows, length, lr=lr, seed=options.seed)
        measure(model.eval(), tokenizer, evaluation[:256])

    save(model, tokenizer, options.out)


if __name__ == "__main__":
    main()
