"""Verifiers by name: what a recipe's [verify] table says becomes a check."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from sieverl.errors import UsageError, nearest
from sieverl.types import Row, Verdict
from sieverl.verify.check import NOT_APPLICABLE, Verifier
from sieverl.verify.exact import choice, number, regex, string
from sieverl.verify.functions import function, reasoning_gym
from sieverl.verify.math import math
from sieverl.verify.rules import MathRules


def weighted(parts: Sequence[Mapping[str, Any]] = (), correct_from: float = 1.0) -> Verifier:
    """The weighted sum of several verifiers' rewards; `correct` and `status` are those of the first that applies.

    Each part is a specification with a `weight` besides (1 if left out); so the main verifier stands first, and a small
    reward for the form behind it. A function that returns None does not apply and adds nothing. `correct_from` is that
    of the parts which have none of their own. Graded.

    >>> parts = [{"name": "number"}, {"name": "string", "weight": 0.5}]
    >>> weighted(parts)("it is 4", {"answer": "4"})
    Verdict(reward=1.0, correct=True, status=<Status.CORRECT: 'correct'>)
    """
    if not parts:
        raise UsageError(
            'verify.parts is empty; give a sum its parts, such as [{name = "math"}, {name = "regex", ...}].'
        )
    weights = [part.get("weight", 1.0) for part in parts]
    for weight in weights:
        if isinstance(weight, bool) or not isinstance(weight, int | float):
            raise UsageError(f"verify.parts has the weight {weight!r}; a weight is a number.")
    shared = {} if correct_from == 1.0 else {"correct_from": correct_from}
    checks = [
        describe((shared if takes(part, "correct_from") else {}) | {k: v for k, v in part.items() if k != "weight"})
        for part in parts
    ]
    names = part_names(parts)

    def add(verdicts: Sequence[Verdict]) -> Verdict:
        applied = [(weight, v) for weight, v in zip(weights, verdicts, strict=True) if v is not NOT_APPLICABLE]
        if not applied:
            return NOT_APPLICABLE
        told: dict[str, float | None] = {}
        for name, verdict in zip(names, verdicts, strict=True):
            told[name] = None if verdict is NOT_APPLICABLE else verdict.reward
            told |= {f"{name}/{inner}": reward for inner, reward in verdict.parts.items()}
        main = applied[0][1]
        return Verdict(float(sum(weight * v.reward for weight, v in applied)), main.correct, main.status, told)

    def cheap(response: str, row: Row) -> Verdict | None:
        verdicts = [check.cheap(response, row) for check in checks]
        told = [verdict for verdict in verdicts if verdict is not None]
        return add(told) if len(told) == len(checks) else None

    return Verifier(
        full=lambda response, row: add([check.full(response, row) for check in checks]),
        cheap=cheap,
        total=all(check.total for check in checks),
        prepare=lambda: [check.prepare() for check in checks],
        graded=True,
        gold=checks[0].gold,
    )


def part_names(parts: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the parts of a sum are called in the metrics: a function by its own name, no two alike.

    >>> part_names([{"name": "math"}, {"name": "mine.py:brief"}, {"name": "math", "rules": "lenient"}])
    ['math', 'brief', 'math_2']
    """
    names: list[str] = []
    for part in parts:
        name, number = str(part.get("name")).rpartition(":")[2], 1
        while (unique := name if number == 1 else f"{name}_{number}") in names:
            number += 1
        names.append(unique)
    return names


def takes(spec: Mapping[str, Any], option: str) -> bool:
    """Whether a verifier has an option."""
    name = spec.get("name")
    return option == "correct_from" if ":" in str(name) else name in VERIFIERS and option in options(str(name))


VERIFIERS: dict[str, Callable[..., Verifier]] = {
    "math": math,
    "number": number,
    "choice": choice,
    "string": string,
    "regex": regex,
    "reasoning_gym": reasoning_gym,
    "sum": weighted,
}


def options(name: str) -> dict[str, Any]:
    """The options of a named verifier and their defaults.

    >>> options("reasoning_gym")
    {'task': None, 'after': None, 'correct_from': 1.0}
    """
    known = {key: parameter.default for key, parameter in inspect.signature(VERIFIERS[name]).parameters.items()}
    if known.pop("options", None):
        known |= {rule.name: rule.default for rule in fields(MathRules)}
    return known


def describe(spec: Mapping[str, Any]) -> Verifier:
    """The check that a specification means, validated but not prepared: nothing slow or foreign is imported.

    >>> describe({"name": "math", "boxs": "last"})  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    sieverl.errors.UsageError: verify.boxs is no option of math; it has rules, boxes, ... Did you mean boxes?
    """
    name = spec.get("name")
    given = {key: value for key, value in spec.items() if key != "name"}
    if isinstance(name, str) and ":" in name:
        if other := given.keys() - {"correct_from"}:
            raise UsageError(f"verify.{min(other)} is no option of a function ({name}); it has correct_from.")
        check_type("correct_from", given.get("correct_from", 1.0), 1.0)
        return function(name, **given)
    if name not in VERIFIERS:
        raise UsageError(
            f"Unknown verifier {name!r}; known are {', '.join(VERIFIERS)}, "
            f"or a function as FILE.py:NAME or MODULE:NAME.{nearest(str(name), VERIFIERS)}"
        )
    known = options(name)
    for key, value in given.items():
        if key not in known:
            raise UsageError(f"verify.{key} is no option of {name}; it has {', '.join(known)}.{nearest(key, known)}")
        check_type(key, value, known[key])
    return VERIFIERS[name](**given)


def check_type(option: str, value: Any, default: Any) -> None:
    """A UsageError if an option is not of its default's kind (an option without a default is text)."""
    kinds = {bool: bool, int: int, float: int | float, tuple: list | tuple, str: str, type(None): str | None}
    wanted = kinds[type(default)]
    if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
        raise UsageError(f"verify.{option} is {value!r}; it must be of the kind of {default!r}.")


def build(spec: Mapping[str, Any]) -> Verifier:
    r"""A verifier, ready to be called in this process as `(response, row) -> Verdict`, without limits.

    `spec` is the recipe's [verify] table: the `name` and its options. Raises UsageError for one that cannot work.

    >>> build({"name": "math", "boxes": "first"})(r"\boxed{2} or \boxed{3}", {"answer": "2"}).correct
    True
    """
    check = describe(spec)
    check.prepare()
    return check


def is_graded(spec: Mapping[str, Any]) -> bool | None:
    """Whether rewards mean more than right (1) and wrong (0); None for a user's function, which is not known.

    >>> is_graded({"name": "math"}), is_graded({"name": "reasoning_gym"}), is_graded({"name": "mine.py:reward"})
    (False, True, None)
    """
    return describe(spec).graded


def gold_response(spec: Mapping[str, Any], row: Row) -> str | None:
    r"""A response that the verifier must find right, or None if it has no notion of one.

    >>> gold_response({"name": "math"}, {"answer": "4"}), gold_response({"name": "regex", "pattern": "x"}, {})
    ('\\boxed{4}', None)
    """
    return describe(spec).gold(row)
