"""Verifiers that read and compare text in microseconds: a number, a choice, a string; and the regular expression."""

from __future__ import annotations

import re
from collections.abc import Callable

from sieverl.errors import UsageError
from sieverl.types import Row, Verdict
from sieverl.verify import extract, numbers
from sieverl.verify.check import NO_ANSWER, Verifier, binary, gold_answers, one_of

_LETTER = re.compile(r"\(?\s*([A-Za-z])\s*(?:[).:,]|$)")


def exact(
    same: Callable[[str, str], bool],
    unmarked: Callable[[str], list[str]] | None,
    boxes: str,
    after: str | None,
) -> Verifier:
    """A check that compares the marked answer, or what `unmarked` finds where nothing is marked, with the gold text.

    It cannot hang, so that it runs in the caller's process.
    """
    one_of("boxes", boxes, extract.BOXES)

    def score(response: str, row: Row) -> Verdict:
        found = extract.marked(response, boxes, after)
        if found is None:
            found = (unmarked(response) if unmarked else None) or None
        if found is None:
            return NO_ANSWER
        return binary(any(same(text, gold) for text in found for gold in extract.gold_texts(row, after, boxes)))

    def gold(row: Row) -> str:
        return rf"\boxed{{{extract.gold_texts(row, after, boxes)[0]}}}"

    return Verifier(full=score, cheap=score, total=True, gold=gold)


def number(
    boxes: str = "last",
    after: str | None = None,
    unboxed: bool = True,
    percent: str = "drop",
    units: bool = True,
    commas: bool = True,
    precision: int = 6,
    tolerance: float = 0.0,
) -> Verifier:
    r"""A plain number, compared exactly; without a box the last number of the response, unless `unboxed` is false.

    >>> texts = "about 1,200 of them", r"\boxed{12} or 1200", "many"
    >>> [number()(text, {"answer": "1200"}).status.value for text in texts]
    ['correct', 'incorrect', 'no_answer']
    """
    one_of("percent", percent, numbers.PERCENT)

    def reading(text: str) -> numbers.Exact | None:
        single = extract.numbers_in(text)
        forms = text, single[0] if len(single) == 1 else ""  # `5 apples` is 5, `5 or 6` is nothing
        tidy = [numbers.tidy(form) for form in forms if len(form) < 1000]
        found = [numbers.read(numbers.without_unit(form) if units else form) for form in tidy]
        return next((value for value in found if value and (commas or not value.grouped)), None)

    def same(text: str, gold: str) -> bool:
        answer, right = reading(text), reading(gold)
        if answer is None or right is None:
            return False
        return numbers.same_number(answer, right, percent, precision, tolerance)

    return exact(same, (lambda response: extract.numbers_in(response)[-1:]) if unboxed else None, boxes, after)


def choice(letters: str = "ABCDE", boxes: str = "last", after: str | None = None, unboxed: bool = True) -> Verifier:
    r"""One letter of a multiple choice: in a box, behind `after`, or in "the answer is (B)".

    >>> texts = r"\boxed{\text{(B)}}", "The answer is C.", "A dog."
    >>> [choice()(text, {"answer": "B"}).status.value for text in texts]
    ['correct', 'incorrect', 'no_answer']
    """
    said = re.compile(rf"(?i:answer|option|choice)(?i:\s+is)?\s*:?\s*\**\(?([{re.escape(letters)}])\b")

    def letter(text: str) -> str:
        match = _LETTER.match(numbers.tidy(text[:200]))
        return match.group(1).upper() if match and match.group(1).upper() in letters.upper() else ""

    def unmarked(response: str) -> list[str]:
        bare = response.strip()
        return said.findall(bare)[-1:] or ([bare] if len(bare) <= 4 and letter(bare) else [])

    def same(text: str, gold: str) -> bool:
        return letter(text) == letter(gold) != ""

    return exact(same, unmarked if unboxed else None, boxes, after)


def string(
    boxes: str = "last",
    after: str | None = None,
    unboxed: bool = True,
    ignore_case: bool = True,
    ignore_space: bool = True,
) -> Verifier:
    r"""The same text; without a box the whole response, unless `unboxed` is false.

    >>> check = string()
    >>> check(r"\boxed{New  york}", {"answer": "New York"}).correct, check("York", {"answer": "New York"}).correct
    (True, False)
    """

    def plain(text: str) -> str:
        text = " ".join(text.split()) if ignore_space else text
        return text.casefold() if ignore_case else text

    def unmarked(response: str) -> list[str]:
        return [response] if response.strip() else []

    return exact(lambda text, gold: plain(text) == plain(gold), unmarked if unboxed else None, boxes, after)


def regex(pattern: str | None = None, whole: bool = False, ignore_case: bool = False, dot_all: bool = True) -> Verifier:
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
            raise UsageError(f"verify.pattern {text!r} is no regular expression: {error}") from error

    fixed = compiled(pattern) if pattern is not None else None

    def score(response: str, row: Row) -> Verdict:
        patterns = [fixed] if fixed else [compiled(gold) for gold in gold_answers(row)]
        return binary(any((one.fullmatch if whole else one.search)(response) for one in patterns))

    return Verifier(full=score)
