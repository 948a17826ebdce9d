"""The answer that a response votes for in maj@k: read where the verifier looks for it, and normalised."""

from __future__ import annotations

import re
from collections.abc import Callable

from sieverl.types import VerifierSpec
from sieverl.verify import extract, make_verifier, numbers
from sieverl.verify.functions import gym_answer
from sieverl.verify.rules import RULES

AnswerReader = Callable[[str], "str | None"]  # response -> normalised answer
TAIL = 2000  # characters at the end of a response where an unmarked answer is looked for
LONG = 1000  # characters beyond which an answer is not normalised
_SPAN = re.compile(r"\$\$?([^$]+)\$\$?|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)


def answer_reader(spec: VerifierSpec) -> AnswerReader:
    r"""A function that reads the answer of a response as the verifier of `spec` would, without looking at the gold.

    Two answers are equal if they are the same number (0.5 and \frac12), or the same text up to spacing, case and units.

    >>> read = answer_reader({"name": "math"})
    >>> read(r"so \boxed{\frac12}"), read("it is 0.5"), read(r"the area is $2 \pi$."), read("")
    ('1/2', '1/2', '2\\pi', None)
    """
    while spec.get("name") == "sum":  # its first part says what is correct
        spec = spec["parts"][0]
    read = READERS.get(str(spec.get("name")), _expression)(spec)

    return lambda response: normalised(read(response) or "") or None


def normalised(text: str) -> str:
    """The same string for answers that are the same number, or the same text up to case, spacing and units.

    >>> [normalised(text) for text in ("1,200.0", "1200", " North  East", "50%")]
    ['1200', '1200', 'north east', '50']
    """
    if len(text) > LONG:
        return text
    short = numbers.without_unit(numbers.tidy(text))
    number = numbers.parse_number(short)
    return str(number.value) if number else short.casefold()


def _marked(response: str, spec: VerifierSpec) -> str | None:
    """The content of the box, or what follows the marker that the verifier reads; None where neither is there."""
    rules = RULES.get(spec.get("rules", "strict"))
    boxes = spec.get("boxes", rules.boxes if rules else "last")
    found = extract.marked(response, boxes if boxes in extract.BOXES else "last", spec.get("after"))
    return None if found is None else ", ".join(found)


def _expression(spec: VerifierSpec) -> AnswerReader:
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


def _choice(spec: VerifierSpec) -> AnswerReader:
    """The letter that the verifier itself reads."""
    check = make_verifier(spec)
    letters = spec.get("letters", "ABCDE")
    return lambda response: next((x for x in letters if check.full(response, {"answer": x}).correct), None)


def _whole(spec: VerifierSpec) -> AnswerReader:
    """The box, else the whole response."""
    return lambda response: response if (box := _marked(response, spec)) is None else box


READERS: dict[str, Callable[[VerifierSpec], AnswerReader]] = {
    "math": _expression,
    "number": _expression,
    "choice": _choice,
    "string": _whole,
    "reasoning_gym": lambda spec: lambda response: gym_answer(response, spec.get("after")),
}
