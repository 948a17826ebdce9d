"""Verifiers that read and compare text in microseconds: a number, a choice, a string; and the regular expression."""

from __future__ import annotations

import re
from functools import partial

from sieverl.errors import UsageError
from sieverl.types import Row, Verdict
from sieverl.verify import extract, numbers
from sieverl.verify.check import NO_ANSWER, Check, at_once, binary, golds, one_of

_LETTER = re.compile(r"\(?\s*([A-Za-z])\s*(?:[).:,]|$|\s)")


def boxed_gold(row: Row) -> str:
    """A response that must be right: the gold in a box."""
    return rf"\boxed{{{golds(row)[0]}}}"


def find(response: str, boxes: str, after: str | None, unboxed: bool) -> list[str] | None:
    """The answers that count: behind the last marker, else in the boxes; None when the whole response is to be read."""
    marked = extract.after_marker(response, after) if after else None
    if marked:
        return (extract.boxed(marked) or [marked])[-1:]
    found = [box for box in extract.boxed(response) if box]
    if found or not unboxed:
        return extract.BOXES[boxes](found) or ([""] if found else [])
    return None


def number(
    boxes: str = "last",
    after: str | None = None,
    unboxed: bool = True,
    percent: str = "drop",
    units: bool = True,
    commas: bool = True,
    precision: int = 6,
    tolerance: float = 0.0,
) -> Check:
    r"""A plain number, compared exactly; without a box the last number of the response, unless `unboxed` is false.

    >>> check = number()
    >>> [check(text, {"answer": "1200"}).status.value for text in ("about 1,200 of them", r"\boxed{12} or 1200", "many")]
    ['correct', 'incorrect', 'no_answer']
    """
    one_of("boxes", boxes, extract.BOXES)
    one_of("percent", percent, numbers.PERCENT)

    def reading(text: str) -> numbers.Exact | None:
        tidy = numbers.tidy(text)
        found = numbers.read(numbers.without_unit(tidy) if units else tidy)
        return None if found and found.grouped and not commas else found

    def score(response: str, row: Row) -> Verdict:
        found = find(response, boxes, after, unboxed)
        texts = [extract.last_number(response) or ""] if found is None else found
        answers = [value for text in texts if (value := reading(text)) is not None]
        if not answers:
            return NO_ANSWER
        rights = [value for gold in golds(row) if (value := reading(gold_text(gold, after))) is not None]
        return binary(any(numbers.same_number(a, b, percent, precision, tolerance) for a in answers for b in rights))

    return at_once(score, boxed_gold)


def gold_text(gold: str, after: str | None) -> str:
    """The gold without the solution around it."""
    marked = extract.after_marker(gold, after) if after else None
    return marked or (extract.boxed(gold) or [gold])[-1]


def choice(letters: str = "ABCDE", boxes: str = "last", after: str | None = None, unboxed: bool = True) -> Check:
    r"""One letter of a multiple choice: in a box, behind `after`, or in "the answer is (B)".

    >>> check = choice()
    >>> [check(text, {"answer": "B"}).status.value for text in (r"\boxed{\text{(B)}}", "The answer is C.", "A dog.")]
    ['correct', 'incorrect', 'no_answer']
    """
    one_of("boxes", boxes, extract.BOXES)
    said = re.compile(rf"(?i:answer|option|choice)(?i:\s+is)?\s*:?\s*\**\(?([{letters}])\b")

    def letter(text: str) -> str:
        match = _LETTER.match(numbers.tidy(text))
        return match.group(1).upper() if match and match.group(1).upper() in letters.upper() else ""

    def score(response: str, row: Row) -> Verdict:
        found = find(response, boxes, after, unboxed)
        if found is None:
            bare = response.strip()
            found = said.findall(bare)[-1:] or ([bare] if len(bare) <= 4 else [])
        answers = [value for text in found if (value := letter(text))]
        return binary(any(a in map(letter, golds(row)) for a in answers)) if answers else NO_ANSWER

    return at_once(score, boxed_gold)


def string(
    boxes: str = "last",
    after: str | None = None,
    unboxed: bool = True,
    ignore_case: bool = True,
    ignore_space: bool = True,
) -> Check:
    r"""The same text; without a box the whole response, unless `unboxed` is false.

    >>> check = string()
    >>> check(r"\boxed{New  york}", {"answer": "New York"}).correct, check("York", {"answer": "New York"}).correct
    (True, False)
    """
    one_of("boxes", boxes, extract.BOXES)

    def plain(text: str) -> str:
        text = " ".join(text.split()) if ignore_space else text
        return text.casefold() if ignore_case else text

    def score(response: str, row: Row) -> Verdict:
        found = find(response, boxes, after, unboxed)
        texts = [plain(text) for text in ([response] if found is None else found) if text.strip()]
        return binary(any(text == plain(gold) for text in texts for gold in golds(row))) if texts else NO_ANSWER

    return at_once(score, boxed_gold)


def regex(pattern: str | None = None, whole: bool = False, ignore_case: bool = False, dot_all: bool = True) -> Check:
    r"""A regular expression found in the response (or matching the `whole` of it); without `pattern` the gold is one.

    It runs in a worker, since a pattern can take for ever. The use is a format reward, as a part of a `sum`.

    >>> regex(r"<think>.*</think>")("<think>hm</think> 4", {}).reward
    1.0
    """
    flags = (re.IGNORECASE if ignore_case else 0) | (re.DOTALL if dot_all else 0)

    def compiled(text: str) -> re.Pattern[str]:
        try:
            return re.compile(text, flags)
        except re.error as error:
            raise UsageError(f"verify.pattern {text!r} is no regular expression: {error}.") from error

    fixed = compiled(pattern) if pattern is not None else None

    def score(response: str, row: Row) -> Verdict:
        patterns = [fixed] if fixed else [compiled(gold) for gold in golds(row)]
        return binary(any((one.fullmatch if whole else one.search)(response) for one in patterns))

    return Check(full=partial(score))
