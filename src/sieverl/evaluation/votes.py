"""The answer that a response votes for in maj@k: where the verifier looks for it, in one spelling."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from sieverl.verify import extract, make_verifier, numbers
from sieverl.verify.functions import gym_answer
from sieverl.verify.rules import RULES

Read = Callable[[str], "str | None"]
TAIL = 2000  # characters at the end of a response where an unmarked answer is looked for
LONG = 1000  # characters beyond which an answer is not brought into one spelling
_SPAN = re.compile(r"\$\$?([^$]+)\$\$?|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)


# --- the answer that a response votes for -----------------------------------------------------------


def reader(spec: Mapping[str, Any]) -> Read:
    r"""How the vote reads an answer under a verifier's specification: where that looks for it, never at the gold.

    Answers are the same when they are one number (0.5 and \frac12) or one text but for spacing, case and units.

    >>> read = reader({"name": "math"})
    >>> read(r"so \boxed{\frac12}"), read("it is 0.5"), read(r"the area is $2 \pi$."), read("")
    ('1/2', '1/2', '2\\pi', None)
    """
    while spec.get("name") == "sum":  # its first part says what is correct
        spec = spec["parts"][0]
    read = READERS.get(str(spec.get("name")), _expression)(spec)

    def spelled(response: str) -> str | None:
        return spelling(read(response) or "") or None

    return spelled


def spelling(text: str) -> str:
    """One spelling of answers that are the same number, or the same text but for case, spacing and units.

    >>> [spelling(text) for text in ("1,200.0", "1200", " North  East", "50%")]
    ['1200', '1200', 'north east', '50']
    """
    if len(text) > LONG:
        return text
    short = numbers.without_unit(numbers.tidy(text))
    number = numbers.parse_number(short)
    return str(number.value) if number else short.casefold()


def _marked(response: str, spec: Mapping[str, Any]) -> str | None:
    """What stands in the box or behind the marker that the verifier reads; None where nothing is marked."""
    rules = RULES.get(spec.get("rules", "strict"))
    boxes = spec.get("boxes", rules.boxes if rules else "last")
    found = extract.marked(response, boxes if boxes in extract.BOXES else "last", spec.get("after"))
    return None if found is None else ", ".join(found)


def _expression(spec: Mapping[str, Any]) -> Read:
    """The box, else the last number or formula, else the last line."""

    def last(text: str) -> str:
        spans = list(_SPAN.finditer(text))
        found = extract.numbers_in(text[spans[-1].end() :] if spans else text)
        if found:
            return found[-1]
        if spans:
            return next(part for part in spans[-1].groups() if part)
        return (text.strip().splitlines() or [""])[-1]

    return lambda response: last(response[-TAIL:]) if (box := _marked(response, spec)) is None else box


def _choice(spec: Mapping[str, Any]) -> Read:
    """The letter that the verifier itself reads."""
    check = make_verifier(spec)
    letters = spec.get("letters", "ABCDE")
    return lambda response: next((x for x in letters if check.full(response, {"answer": x}).correct), None)


def _whole(spec: Mapping[str, Any]) -> Read:
    """The box, else the whole response."""
    return lambda response: response if (box := _marked(response, spec)) is None else box


READERS: dict[str, Callable[[Mapping[str, Any]], Read]] = {
    "math": _expression,
    "number": _expression,
    "choice": _choice,
    "string": _whole,
    "reasoning_gym": lambda spec: lambda response: gym_answer(response, spec.get("after")),
}
