"""Verifiers by name: make one from its specification, the recipe's [verify] table."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import fields

from sieverl.errors import UsageError, nearest
from sieverl.types import Row, Verdict
from sieverl.verify.exact import choice, number, regex, string
from sieverl.verify.functions import function, reasoning_gym
from sieverl.verify.math import math
from sieverl.verify.rules import MathRules
from sieverl.verify.verifier import NOT_APPLICABLE, Spec, Verifier


def weighted_sum(parts: Sequence[Spec] = (), correct_from: float = 1.0) -> Verifier:
    """The weighted sum of several verifiers' rewards; `correct` and `status` come from the first part that applies.

    Each part is a specification with an optional `weight` (default 1); the main verifier comes first, small rewards for
    the format after it. A part whose function returns None does not apply and adds nothing. `correct_from` is passed to
    the parts that take it and do not set it. Graded.

    >>> parts = [{"name": "number"}, {"name": "string", "weight": 0.5}]
    >>> weighted_sum(parts)("it is 4", {"answer": "4"})
    Verdict(reward=1.0, correct=True, status=<Status.CORRECT: 'correct'>)
    """
    if not parts:
        raise UsageError(
            'verify.parts is empty; give a sum its parts, such as [{name = "math"}, {name = "regex", ...}].'
        )
    names, weights = part_names(parts), [part_weight(part) for part in parts]
    shared = {} if correct_from == 1.0 else {"correct_from": correct_from}
    verifiers = [
        make_verifier(
            (shared if has_option(part, "correct_from") else {}) | {k: v for k, v in part.items() if k != "weight"}
        )
        for part in parts
    ]

    def full(response: str, row: Row) -> Verdict:
        return add_verdicts(names, weights, [verifier.full(response, row) for verifier in verifiers])

    def cheap(response: str, row: Row) -> Verdict | None:
        verdicts = [verifier.cheap(response, row) for verifier in verifiers]
        decided = [verdict for verdict in verdicts if verdict is not None]
        return add_verdicts(names, weights, decided) if len(decided) == len(verifiers) else None

    return Verifier(
        full=full,
        cheap=cheap,
        total=all(verifier.total for verifier in verifiers),
        prepare=lambda: [verifier.prepare() for verifier in verifiers],
        graded=True,
        gold=verifiers[0].gold,
    )


def add_verdicts(names: Sequence[str], weights: Sequence[float], verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict of a weighted sum, with the reward of each part by name."""
    applied = [(weight, v) for weight, v in zip(weights, verdicts, strict=True) if v is not NOT_APPLICABLE]
    if not applied:
        return NOT_APPLICABLE
    parts: dict[str, float | None] = {}
    for name, verdict in zip(names, verdicts, strict=True):
        parts[name] = None if verdict is NOT_APPLICABLE else verdict.reward
        parts |= {f"{name}/{inner}": reward for inner, reward in verdict.parts.items()}
    main = applied[0][1]
    return Verdict(float(sum(weight * v.reward for weight, v in applied)), main.correct, main.status, parts)


def part_weight(part: Spec) -> float:
    """The weight of a part of a sum. Raises UsageError if it is no number."""
    weight = part.get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float):
        raise UsageError(f"verify.parts has the weight {weight!r}; a weight is a number.")
    return weight


def part_names(parts: Sequence[Spec]) -> list[str]:
    """Unique names of the parts of a sum in the metrics; a function has its own name, without its file.

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


def has_option(spec: Spec, option: str) -> bool:
    """Whether the verifier of a specification has an option; False for an unknown verifier."""
    name = str(spec.get("name"))
    return option == "correct_from" if ":" in name else name in VERIFIERS and option in options(name)


VERIFIERS: dict[str, Callable[..., Verifier]] = {
    "math": math,
    "number": number,
    "choice": choice,
    "string": string,
    "regex": regex,
    "reasoning_gym": reasoning_gym,
    "sum": weighted_sum,
}


def options(name: str) -> dict[str, object]:
    """The options of a named verifier and their defaults.

    >>> options("reasoning_gym")
    {'task': None, 'after': None, 'correct_from': 1.0}
    """
    found = {key: parameter.default for key, parameter in inspect.signature(VERIFIERS[name]).parameters.items()}
    if found.pop("options", None):
        found |= {rule.name: rule.default for rule in fields(MathRules)}
    return found


def make_verifier(spec: Spec) -> Verifier:
    """The verifier of a specification, checked but not prepared: nothing slow is imported, no user's file is loaded.

    Raises UsageError for an unknown name or option, or an option of the wrong type.

    >>> make_verifier({"name": "math", "boxs": "last"})  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    sieverl.errors.UsageError: verify.boxs is no option of math; it has rules, boxes, ... Did you mean boxes?
    """
    name = spec.get("name")
    given = {key: value for key, value in spec.items() if key != "name"}
    if isinstance(name, str) and ":" in name:
        if other := given.keys() - {"correct_from"}:
            raise UsageError(f"verify.{min(other)} is no option of a function ({name}); it has correct_from.")
        correct_from = given.get("correct_from", 1.0)
        check_option_type("correct_from", correct_from, 1.0)
        assert isinstance(correct_from, int | float)
        return function(name, correct_from)
    if not isinstance(name, str) or name not in VERIFIERS:
        raise UsageError(
            f"Unknown verifier {name!r}; known are {', '.join(VERIFIERS)}, "
            f"or a function as FILE.py:NAME or MODULE:NAME.{nearest(str(name), VERIFIERS)}"
        )
    defaults = options(name)
    for key, value in given.items():
        if key not in defaults:
            has = ", ".join(defaults)
            raise UsageError(f"verify.{key} is no option of {name}; it has {has}.{nearest(key, defaults)}")
        check_option_type(key, value, defaults[key])
    return VERIFIERS[name](**given)


def check_option_type(option: str, value: object, default: object) -> None:
    """Raise UsageError if an option has not the type of its default; an option whose default is None is a string."""
    allowed = {bool: bool, int: int, float: int | float, tuple: list | tuple, str: str, type(None): str | None}
    wanted = allowed[type(default)]
    if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
        raise UsageError(f"verify.{option} is {value!r}; it must be of the kind of {default!r}.")


def build(spec: Spec) -> Verifier:
    r"""A verifier that is ready to be called as `(response, row) -> Verdict` in this process, without time limits.

    `spec` is the recipe's [verify] table: the `name` and its options. Raises UsageError if it cannot work.

    >>> build({"name": "math", "boxes": "first"})(r"\boxed{2} or \boxed{3}", {"answer": "2"}).correct
    True
    """
    verifier = make_verifier(spec)
    verifier.prepare()
    return verifier


def is_graded(spec: Spec) -> bool | None:
    """Whether rewards are more than correct (1) and incorrect (0); None for a user's function, which is not loaded.

    >>> is_graded({"name": "math"}), is_graded({"name": "reasoning_gym"}), is_graded({"name": "mine.py:reward"})
    (False, True, None)
    """
    return make_verifier(spec).graded


def gold_response(spec: Spec, row: Row) -> str | None:
    r"""A response that the verifier must find correct, made from the row's gold; None if it cannot make one.

    >>> gold_response({"name": "math"}, {"answer": "4"}), gold_response({"name": "regex", "pattern": "x"}, {})
    ('\\boxed{4}', None)
    """
    return make_verifier(spec).gold(row)
