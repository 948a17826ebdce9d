"""The verifier `math`: explicit rules find the answer, numbers are compared exactly, all else by Math-Verify."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from sieverl.types import Row, Verdict
from sieverl.verify import extract, lists, numbers, symbolic
from sieverl.verify.rules import RULES, MathRules
from sieverl.verify.verifier import NO_ANSWER, REFUSED, TooBig, Verifier, binary, gold_answers, one_of

_INTEGER = re.compile(r"-?[0-9]{1,300}")
LONG = 20_000  # characters from which on even the search for the box is left to the workers
Equal = Callable[[str, str, MathRules], bool | None]  # (answer, gold, rules); None: undecided
Unboxed = Callable[[str, list[str], MathRules], Verdict | None]  # (response, golds, rules)


def math(rules: str = "strict", **options: Any) -> Verifier:
    r"""The verifier of mathematical answers. `rules` names a set of defaults; `options` are fields of `MathRules`.

    `strict` is for training, `lenient` for evaluation, `math_verify` parses the whole response as that library does.

    >>> verify = math()
    >>> [verify(text, {"answer": "1200"}).status.value for text in (r"so \boxed{1,200}", r"\boxed{120}", "so 1,200")]
    ['correct', 'incorrect', 'no_answer']
    """
    chosen = replace(RULES[one_of("rules", rules, RULES)], **options)
    one_of("boxes", chosen.boxes, [*extract.BOXES, "math_verify"])
    one_of("percent", chosen.percent, numbers.PERCENT)
    one_of("answers", chosen.answers, ("any", "all"))
    chosen = replace(chosen, targets=tuple(one_of("targets", target, ("latex", "expr")) for target in chosen.targets))
    if chosen.boxes == "math_verify":
        whole = partial(symbolic.verify_whole, rules=chosen)
        return Verifier(full=whole, prepare=symbolic.prepare, gold=boxed_gold)

    def full(response: str, row: Row) -> Verdict:
        verdict = judge(response, row, chosen, equal_answers, symbolic.verify_unboxed)
        assert verdict is not None  # both functions always decide
        return verdict

    def cheap(response: str, row: Row) -> Verdict | None:
        if len(response) > LONG:
            return None
        return judge(response, row, chosen, equal_cheaply, unboxed=lambda response, golds, rules: None)

    return Verifier(
        full=full,
        cheap=cheap,
        prepare=symbolic.prepare,
        gold=lambda row: rf"\boxed{{{golds_to_match(row, chosen)[0]}}}",
    )


def boxed_gold(row: Row) -> str:
    """A response that Math-Verify by itself must accept: the gold in a box, or the gold as it is if it has a box."""
    gold = gold_answers(row)[0]
    return gold if extract.boxes_in(gold) else rf"\boxed{{{gold}}}"


def golds_to_match(row: Row, rules: MathRules) -> list[str]:
    """The gold answers without the solutions around them; joined to one list where all must be given."""
    golds = extract.marked_golds(row, rules.after, rules.boxes)
    return [", ".join(golds)] if rules.answers == "all" else golds


def judge(response: str, row: Row, rules: MathRules, equal: Equal, unboxed: Unboxed) -> Verdict | None:
    """The verdict on a response; None if it depends on what `equal` or `unboxed` cannot decide."""
    golds = golds_to_match(row, rules)
    answers = extract.marked(response, rules.boxes, rules.after)
    try:
        if answers is None:
            return unboxed(response, golds, rules) if rules.unboxed else NO_ANSWER
        if any(len(answer) > max(rules.max_chars, 2 * max(map(len, golds))) for answer in answers):
            return REFUSED
        results = [equal(answer, gold, rules) for answer in answers for gold in golds]
    except TooBig:
        return REFUSED
    if any(results):
        return binary(True)
    return None if None in results else binary(False)


def equal_cheaply(answer: str, gold: str, rules: MathRules) -> bool | None:
    """Whether two answers are the same text or equal plain numbers or lists of them; None for anything else.

    >>> [equal_cheaply(answer, gold, MathRules()) for answer, gold in (("0.5", "1/2"), ("5", "4"), ("x", "4"))]
    [True, False, None]
    """
    if _INTEGER.fullmatch(answer) and _INTEGER.fullmatch(gold):
        return int(answer) == int(gold)
    a, b = numbers.tidy(answer), numbers.tidy(gold)
    if rules.units:
        a, b = numbers.without_unit(a), numbers.without_unit(b)
    if a.replace(", ", ",") == b.replace(", ", ","):
        return True if a else None
    if rules.commas and (ungrouped := (numbers.ungroup(answer), numbers.ungroup(gold))) != (answer, gold):
        return equal_cheaply(*ungrouped, rules)
    equal = partial(numbers.equal_numbers, percent=rules.percent, precision=rules.precision, tolerance=rules.tolerance)
    x, y = numbers.parse_number(a), numbers.parse_number(b)
    if x is None or y is None:
        answer_list, gold_list = lists.parse_list(a), lists.parse_list(b)
        return lists.equal_lists(answer_list, gold_list, equal) if answer_list and gold_list else None
    if (x.grouped or y.grouped) > rules.commas or (x.e_notation or y.e_notation) > rules.e_notation:
        return None
    return equal(x, y)


def equal_answers(answer: str, gold: str, rules: MathRules) -> bool:
    """Whether two answers are equal: cheaply where that decides, else by Math-Verify. Raises TooBig.

    >>> equal_answers(r"\\frac{x}{7}+\\frac{2}{7}", r"\\frac{x+2}{7}", MathRules())
    True
    """
    decided = equal_cheaply(answer, gold, rules)
    if decided is not None:
        return decided
    return symbolic.equal_expressions(symbolic.rewrite(answer, rules), symbolic.rewrite(gold, rules), rules)
