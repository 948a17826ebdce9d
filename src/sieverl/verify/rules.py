"""The options of the verifier `math`: what counts as an answer, and which answers are equal."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MathRules:
    """What counts as an answer, and which answers are equal. The defaults are the set `strict`.

    `boxes` is the box that counts, one of the keys of `extract.BOXES` or "math_verify"; `unboxed` also accepts a
    response without a box; with `after`, the answer follows the last such marker. `percent` is "drop" (50% is 50),
    "value" (0.5) or "either". `units`, `commas` and `e_notation` are understood if set. Decimals must agree to
    `precision` decimals, or to the relative error `tolerance`. Of several gold `answers`, "any" or "all" must be given.
    `variables` must have the same names if set. `set_relations` accepts 1 < x < 2 for the interval (1, 2). `targets`
    is what Math-Verify looks for outside a box. An answer longer than `max_chars` and twice the gold is refused.
    docs/verifiers.md shows examples.
    """

    boxes: str = "last"
    unboxed: bool = False
    after: str | None = None
    percent: str = "drop"
    units: bool = True
    commas: bool = True
    e_notation: bool = True
    precision: int = 6
    tolerance: float = 0.0
    answers: str = "any"
    variables: bool = True
    set_relations: bool = False
    targets: tuple[str, ...] = ("latex", "expr")
    max_chars: int = 1000


RULES = {
    "strict": MathRules(),
    "lenient": MathRules(boxes="sentence", unboxed=True, percent="either", set_relations=True),
    "math_verify": MathRules(boxes="math_verify", unboxed=True, max_chars=100_000),
}
