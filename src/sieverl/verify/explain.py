"""How a verdict came about, in words: what was read, what it was compared with, and how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sieverl.types import Row, Verdict
from sieverl.verify import extract
from sieverl.verify.math import LONG, equal_cheaply, golds_to_match
from sieverl.verify.pool import Pool
from sieverl.verify.rules import RULES, MathRules
from sieverl.verify.verifier import Spec

TIMEOUT_S = 5.0
ALWAYS: Mapping[str, Spec] = {  # that need no more than a response and its gold answer
    "math": {"name": "math"},
    "math, lenient": {"name": "math", "rules": "lenient"},
    "math, as Math-Verify by itself": {"name": "math", "rules": "math_verify"},
    "number": {"name": "number"},
    "choice": {"name": "choice"},
    "string": {"name": "string"},
}


@dataclass(frozen=True)
class Explanation:
    """The verdict, the answers that were read in the response and in the gold, and how they were compared."""

    verdict: Verdict
    answers: Sequence[str]
    golds: Sequence[str]
    how: str


def explain(spec: Spec, response: str, row: Row) -> Explanation:
    r"""Verify a response again, in a worker with limits, and say what was compared.

    >>> found = explain({"name": "math"}, r"so \boxed{0.5}", {"answer": "1/2"})
    >>> found.answers, found.golds, found.how, found.verdict.correct
    (['0.5'], ['1/2'], 'as plain numbers or the same text', True)
    """
    with Pool(spec, workers=1, timeout_s=TIMEOUT_S) as pool:
        (verdict,) = pool.verdicts([(response, row)])
    boxes, after = str(spec.get("boxes", _rules(spec).boxes)), spec.get("after")
    marker = after if isinstance(after, str) else None
    if len(response) > LONG or boxes not in extract.BOXES:
        return Explanation(verdict, [], [], "by Math-Verify, which reads the whole response")
    answers = extract.marked(response, boxes, marker)
    if answers is None:
        return Explanation(verdict, [], [], "nothing is marked as the answer; what else counts is up to the rules")
    if spec.get("name") != "math":
        golds = extract.marked_golds(row, marker, boxes)
        return Explanation(verdict, answers, golds, f"by the verifier {spec.get('name')}")
    golds = golds_to_match(row, _rules(spec))
    plain = all(equal_cheaply(answer, gold, _rules(spec)) is not None for answer in answers for gold in golds)
    return Explanation(verdict, answers, golds, "as plain numbers or the same text" if plain else "by Math-Verify")


def _rules(spec: Spec) -> MathRules:
    return RULES.get(str(spec.get("rules", "strict")), RULES["strict"])
