"""The verifiers `number`, `choice` and `string`, which take microseconds and cannot hang; and `regex`."""

from __future__ import annotations

import re
from collections.abc import Callable

from sieverl.errors import UsageError
from sieverl.types import Row, Verdict
from sieverl.verify import extract, numbers
from sieverl.verify.verifier import NO_ANSWER, Verifier, binary, gold_answers, one_of

_LETTER = re.compile(r"\(?\s*([A-Za-z])\s*(?:[).:,]|$)")


def answer_verifier(
    equal: Callable[[str, str], bool],
    unmarked: Callable[[str], list[str]] | None,
    boxes: str,
    after: str | None,
) -> Verifier:
    """A verifier that applies `equal` to the answer and the gold, both as text, in the caller's process.

    The answer is the marked one or, if `unmarked` is given, what that finds in a response that marks none.
    """
    one_of("boxes", boxes, extract.BOXES)

    def verify(response: str, row: Row) -> Verdict:
        answers = extract.marked(response, boxes, after)
        if answers is None:
            answers = (unmarked(response) if unmarked else None) or None
        if answers is None:
            return NO_ANSWER
        golds = extract.marked_golds(row, after, boxes)
        return binary(any(equal(answer, gold) for answer in answers for gold in golds))

    def gold_response(row: Row) -> str:
        return rf"\boxed{{{extract.marked_golds(row, after, boxes)[0]}}}"

    return Verifier(full=verify, cheap=verify, total=True, gold=gold_response)


def number(  # the parameters are the options of a recipe's [verify] table, hence so many
    boxes: str = "last",
    after: str | None = None,
    unboxed: bool = True,
    percent: str = "drop",
    units: bool = True,
    commas: bool = True,
    precision: int = 6,
    tolerance: float = 0.0,
) -> Verifier:
    r"""Compares plain numbers exactly. Without a box the last number of the response counts, unless `unboxed` is false.

    >>> texts = "about 1,200 of them", r"\boxed{12} or 1200", "many"
    >>> [number()(text, {"answer": "1200"}).status.value for text in texts]
    ['correct', 'incorrect', 'no_answer']
    """
    one_of("percent", percent, numbers.PERCENT)

    def parse(text: str) -> numbers.Exact | None:
        single = extract.numbers_in(text)
        forms = text, single[0] if len(single) == 1 else ""  # `5 apples` is 5, `5 or 6` is no number
        tidy = [numbers.tidy(form) for form in forms if len(form) < 1000]
        parsed = [numbers.parse_number(numbers.without_unit(form) if units else form) for form in tidy]
        return next((value for value in parsed if value and (commas or not value.grouped)), None)

    def equal(answer_text: str, gold_text: str) -> bool:
        answer, gold = parse(answer_text), parse(gold_text)
        if answer is None or gold is None:
            return False
        return numbers.equal_numbers(answer, gold, percent, precision, tolerance)

    unmarked = (lambda response: extract.numbers_in(response)[-1:]) if unboxed else None
    return answer_verifier(equal, unmarked, boxes, after)


def choice(letters: str = "ABCDE", boxes: str = "last", after: str | None = None, unboxed: bool = True) -> Verifier:
    r"""Compares letters of a multiple choice: in a box, after `after`, or in "the answer is (B)".

    >>> texts = r"\boxed{\text{(B)}}", "The answer is C.", "A dog."
    >>> [choice()(text, {"answer": "B"}).status.value for text in texts]
    ['correct', 'incorrect', 'no_answer']
    """
    stated = re.compile(rf"(?i:answer|option|choice)(?i:\s+is)?\s*:?\s*\**\(?([{re.escape(letters)}])\b")

    def letter(text: str) -> str:
        match = _LETTER.match(numbers.tidy(text[:200]))
        return match.group(1).upper() if match and match.group(1).upper() in letters.upper() else ""

    def unmarked(response: str) -> list[str]:
        bare = response.strip()
        return stated.findall(bare)[-1:] or ([bare] if len(bare) <= 4 and letter(bare) else [])

    def equal(answer: str, gold: str) -> bool:
        return letter(answer) == letter(gold) != ""

    return answer_verifier(equal, unmarked if unboxed else None, boxes, after)


def string(
    boxes: str = "last",
    after: str | None = None,
    unboxed: bool = True,
    ignore_case: bool = True,
    ignore_space: bool = True,
) -> Verifier:
    r"""Compares texts. Without a box the whole response counts, unless `unboxed` is false.

    >>> verify = string()
    >>> verify(r"\boxed{New  york}", {"answer": "New York"}).correct, verify("York", {"answer": "New York"}).correct
    (True, False)
    """

    def normalised(text: str) -> str:
        text = " ".join(text.split()) if ignore_space else text
        return text.casefold() if ignore_case else text

    def unmarked(response: str) -> list[str]:
        return [response] if response.strip() else []

    def equal(answer: str, gold: str) -> bool:
        return normalised(answer) == normalised(gold)

    return answer_verifier(equal, unmarked if unboxed else None, boxes, after)


def regex(pattern: str | None = None, whole: bool = False, ignore_case: bool = False, dot_all: bool = True) -> Verifier:
    r"""Searches the response for a regular expression, or matches the `whole` of it; without `pattern` the gold is one.

    It is meant for a format reward, as one part of a `sum`. It runs in a worker, since a match can take forever.

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

    def verify(response: str, row: Row) -> Verdict:
        patterns = [fixed] if fixed else [compiled(gold) for gold in gold_answers(row)]
        return binary(any((one.fullmatch if whole else one.search)(response) for one in patterns))

    return Verifier(full=verify)
