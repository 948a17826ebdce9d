"""How often the 95% intervals of an evaluation hold the truth: `python tests/intervals.py` prints the whole table.

Prompts have difficulties from a Beta distribution; a wrong response gives one of three wrong answers. The truth is the
mean over all prompts there could be.
"""

from __future__ import annotations

import numpy as np

from sieverl.evaluation.statistics import scores
from sieverl.types import BoolArray, IntArray

# two kinds of prompts, all kinds, middling ones, hard ones, very hard ones
SHAPES = ((0.2, 0.2), (1.0, 1.0), (5.0, 5.0), (0.5, 10.0), (0.1, 5.0))
WRONG = 3


def draw(
    rng: np.random.Generator, size: tuple[int, ...], samples: int, shape: tuple[float, float]
) -> tuple[IntArray, BoolArray]:
    """Numbers of correct responses, and whether the majority is right."""
    chance = rng.beta(*shape, size)
    correct = rng.binomial(samples, chance)
    wrong = rng.multinomial(samples - correct, [1 / WRONG] * WRONG)
    tied = (wrong == correct[..., None]).sum(-1)
    right = (correct > wrong.max(-1)) | ((correct == wrong.max(-1)) & (rng.random(size) < 1 / (1 + tied)))
    return correct, right & (correct > 0)


def coverage(prompts: int, samples: int, shape: tuple[float, float], runs: int, seed: int = 0) -> dict[str, float]:
    """The share of `runs` whose interval holds the truth, for avg@k, each pass@j and maj@k."""
    rng = np.random.default_rng(seed)
    a, b = shape
    correct_RP, right_RP = draw(rng, (runs, prompts), samples, shape)
    majority = draw(rng, (200_000,), samples, shape)[1].mean()
    inside: dict[str, int] = {}
    for correct_P, right_P in zip(correct_RP, right_RP, strict=True):
        for name, (_, low, high) in scores(correct_P, right_P, samples).items():
            kind, j = name.split("@")
            truth = a / (a + b) if kind == "avg" else majority
            if kind == "pass":
                truth = 1 - np.prod([(b + i) / (a + b + i) for i in range(int(j))])
            inside[name] = inside.get(name, 0) + (low - 1e-9 <= truth <= high + 1e-9)
    return {name: count / runs for name, count in inside.items()}


def main() -> None:
    """Print the coverage for many sizes."""
    for prompts in (2, 5, 10, 30, 200):
        found: dict[str, list[float]] = {"avg": [], "pass": [], "maj": []}
        for samples in (1, 4, 16):
            for shape in SHAPES:
                one = coverage(prompts, samples, shape, runs=2000)
                for name, share in one.items():
                    found[name.split("@")[0]].append(share)
                print(prompts, samples, shape, {name: f"{share:.3f}" for name, share in one.items()}, flush=True)
        print(prompts, {kind: f"{min(shares):.3f} to {max(shares):.3f}" for kind, shares in found.items()}, flush=True)


if __name__ == "__main__":
    main()
