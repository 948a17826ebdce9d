"""What counts as a mathematical answer, and as the same answer."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MathRules:
    """What counts as an answer, and as the same answer. The defaults are the strict ones (a table: docs/verifiers.md).

    `boxes` says which box counts and `unboxed` whether a response without one is read; with `after` the answer stands
    behind the last such marker. `percent` drops the sign, takes its value (50% is 0.5) or accepts either; `units`,
    `commas` and `e_notation` say that these are understood. Decimals agree to `precision` places, or within `tolerance`
    (relative). Of several gold answers `any` or `all` must be given. `variables` must have the same names;
    `set_relations` lets 1 < x < 2 stand for an interval. `targets` is what Math-Verify looks for outside a box. An
    answer over `max_chars` (and over twice the gold's length) is not read.
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
