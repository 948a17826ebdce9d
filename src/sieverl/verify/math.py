"""Mathematical answers: the box is found by explicit rules, numbers are compared exactly, the rest by Math-Verify."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from sieverl.types import Row, Verdict
from sieverl.verify import extract, lists, numbers, symbolic
from sieverl.verify.check import NO_ANSWER, REFUSED, TooBig, Verifier, binary, gold_answers, one_of
from sieverl.verify.rules import RULES, MathRules

_INTEGER = re.compile(r"-?[0-9]{1,300}")
LONG = 20_000  # characters beyond which even looking for the box is the workers' work
Same = Callable[[str, str, MathRules], bool | None]


def math(rules: str = "strict", **options: Any) -> Verifier:
    r"""Mathematical answers. `rules` names a set of defaults, each field of `MathRules` overrides one.

    `strict` is for training, `lenient` for evaluation, `math_verify` that library's own reading of a whole response.

    >>> check = math()
    >>> [check(text, {"answer": "1200"}).status.value for text in (r"so \boxed{1,200}", r"\boxed{120}", "so 1,200")]
    ['correct', 'incorrect', 'no_answer']
    """
    from sieverl.verify import symbolic  # cheap to import; Math-Verify itself waits for `prepare`

    chosen = replace(RULES[one_of("rules", rules, RULES)], **options)
    one_of("boxes", chosen.boxes, [*extract.BOXES, "math_verify"])
    one_of("percent", chosen.percent, numbers.PERCENT)
    one_of("answers", chosen.answers, ("any", "all"))
    chosen = replace(chosen, targets=tuple(one_of("targets", target, ("latex", "expr")) for target in chosen.targets))
    if chosen.boxes == "math_verify":
        return Verifier(full=partial(symbolic.whole, rules=chosen), prepare=symbolic.prepare, gold=gold_response)
    full = partial(score, rules=chosen, same=same, unboxed=symbolic.unboxed)
    quick = partial(score, rules=chosen, same=same_cheaply, unboxed=lambda response, gold_texts, rules: None)
    return Verifier(
        full=full,
        cheap=lambda response, row: None if len(response) > LONG else quick(response, row),
        prepare=symbolic.prepare,
        gold=lambda row: rf"\boxed{{{gold_texts(row, chosen)[0]}}}",
    )


def gold_response(row: Row) -> str:
    """A response that Math-Verify by itself must find right: the gold in a box, or the gold where it has one."""
    gold = gold_answers(row)[0]
    return gold if extract.boxed(gold) else rf"\boxed{{{gold}}}"


def gold_texts(row: Row, rules: MathRules) -> list[str]:
    """The gold answers as bare text; one list of them where all must be given."""
    texts = extract.gold_texts(row, rules.after, rules.boxes)
    return [", ".join(texts)] if rules.answers == "all" else texts


def score(response: str, row: Row, rules: MathRules, same: Same, unboxed: Callable[..., Verdict | None]) -> Any:
    """The verdict of a response; None as soon as `same` or `unboxed` cannot tell."""
    texts = gold_texts(row, rules)
    found = extract.marked(response, rules.boxes, rules.after)
    try:
        if found is None:
            return unboxed(response, texts, rules) if rules.unboxed else NO_ANSWER
        if any(len(text) > max(rules.max_chars, 2 * max(map(len, texts))) for text in found):
            return REFUSED
        told = [same(text, gold, rules) for text in found for gold in texts]
    except TooBig:
        return REFUSED
    if any(told):
        return binary(True)
    return None if None in told else binary(False)


def same_cheaply(answer: str, gold: str, rules: MathRules) -> bool | None:
    """Whether two answers are one text, or plain numbers or lists of them that agree; None for anything else.

    >>> [same_cheaply(answer, gold, MathRules()) for answer, gold in (("0.5", "1/2"), ("5", "4"), ("x", "4"))]
    [True, False, None]
    """
    if _INTEGER.fullmatch(answer) and _INTEGER.fullmatch(gold):
        return int(answer) == int(gold)
    a, b = numbers.tidy(answer), numbers.tidy(gold)
    if rules.units:
        a, b = numbers.without_unit(a), numbers.without_unit(b)
    if a.replace(", ", ",") == b.replace(", ", ","):
        return True if a else None
    if rules.commas and (grouped := (numbers.ungroup(answer), numbers.ungroup(gold))) != (answer, gold):
        return same_cheaply(*grouped, rules)
    same = partial(numbers.same_number, percent=rules.percent, precision=rules.precision, tolerance=rules.tolerance)
    x, y = numbers.read(a), numbers.read(b)
    if x is None or y is None:
        several, golden = lists.read_list(a), lists.read_list(b)
        return lists.same_list(several, golden, same) if several and golden else None
    if (x.grouped or y.grouped) > rules.commas or (x.e_notation or y.e_notation) > rules.e_notation:
        return None
    return same(x, y)


def same(answer: str, gold: str, rules: MathRules) -> bool:
    """Whether two answers are the same: cheaply where that decides, else by Math-Verify. Raises TooBig.

    >>> same(r"\\frac{x}{7}+\\frac{2}{7}", r"\\frac{x+2}{7}", MathRules())
    True
    """
    told = same_cheaply(answer, gold, rules)
    return (
        symbolic.compare(symbolic.rewrite(answer, rules), symbolic.rewrite(gold, rules), rules)
        if told is None
        else told
    )
