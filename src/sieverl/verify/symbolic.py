"""Math-Verify behind SieveRL's rules: what is no plain number is parsed and compared by it, within limits of size."""

from __future__ import annotations

import cmath
import importlib
import logging
import math
import re
from dataclasses import replace
from functools import lru_cache
from typing import Any

from sieverl.types import Row, Verdict
from sieverl.verify.check import NO_ANSWER, REFUSED, TooBig, binary, gold_answers
from sieverl.verify.numbers import DEGREES, ungroup
from sieverl.verify.rules import MathRules

_E_NOTATION = re.compile(r"(?<![\w.}])([-+]?[0-9]+(?:\.[0-9]*)?)[eE]([-+]?[0-9]{1,3})(?![\w.^])")
_THOUSANDS = re.compile(r"(?<=[0-9])(?:,|\{,\})(?=[0-9]{3}(?![0-9]))")
_PERCENT = re.compile(r"\s*(?:\\?%|\\text\s*\{\s*(?:\\?%|percent)\s*\}|\bpercent)\s*$")
_DELIMITERS = re.compile(r"\$|\\\(|\\\[|\\boxed")
_BRACKETS = re.compile(r"[{}()\[\]]")
# What Math-Verify evaluates while it still parses.
_EXPLOSIVE = re.compile(r"binom\s*\{?\s*[0-9]{6,}|[0-9]{6,}\s*\}?\s*\\choose")
MAX_DEPTH = 12  # braces and brackets in each other; from 20 on its grammar needs minutes
MAX_DIGITS = 20_000.0  # of the largest number that an answer may spell out
TAIL = 2000  # characters of a response without a box that are read


def prepare() -> None:
    """Import Math-Verify (half a second) and silence its warning that no alarm is set: the pool limits the time."""
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    importlib.import_module("math_verify")


def unboxed(response: str, gold_texts: list[str], rules: MathRules) -> Verdict:
    """The verdict of a response without a box: what Math-Verify finds in its end ("the answer is ...", or the last)."""
    text = ungroup(response[-TAIL:]) if rules.commas else response[-TAIL:]
    if "$" not in text:
        text = _E_NOTATION.sub(r"$\1\\times 10^{\2}$", text)
    found = parse(text, rules)
    if not found:
        return NO_ANSWER
    return binary(any(agree(found, boxed(rewrite(gold, rules), rules), rules) for gold in gold_texts))


def whole(response: str, row: Row, rules: MathRules) -> Verdict:
    """Math-Verify's own reading of response and gold, which may be marked up or bare."""
    if len(response) > rules.max_chars:
        return REFUSED
    bare = "latex" in rules.targets
    texts = [rf"\boxed{{{gold}}}" if bare and not _DELIMITERS.search(gold) else gold for gold in gold_answers(row)]
    try:
        found = parse(response, rules)
        return binary(any(agree(found, parse(text, rules), rules) for text in texts)) if found else NO_ANSWER
    except TooBig:
        return REFUSED


def rewrite(text: str, rules: MathRules) -> str:
    r"""An answer in the words of Math-Verify, by the rules for percent, commas and e-notation.

    >>> rewrite("4.5e33 + x.", MathRules()), rewrite(r"x\%", MathRules()), rewrite("1,000", MathRules(commas=False))
    ('4.5\\times 10^{33} + x', 'x', '1, 000')
    """
    text = text.strip()
    if text.endswith("."):
        text = text[:-1]
    if rules.percent != "either" and _PERCENT.search(text):
        text = _PERCENT.sub("", text)
        text = text if rules.percent == "drop" else rf"\frac{{{text}}}{{100}}"
    if rules.units:
        text = DEGREES.sub("", text)
    text = ungroup(text) if rules.commas else _THOUSANDS.sub(", ", text)
    return _E_NOTATION.sub(r"\1\\times 10^{\2}", text) if rules.e_notation else text


@lru_cache(4096)
def compare(answer: str, gold: str, rules: MathRules) -> bool:
    """Whether Math-Verify finds two bare answers the same; kept, since the samples of a prompt repeat themselves."""
    return agree(boxed(answer, rules), boxed(gold, rules), rules)


@lru_cache(2048)
def boxed(text: str, rules: MathRules) -> tuple[Any, ...]:
    """A bare answer, parsed."""
    return parse(rf"\boxed{{{text}}}", rules)


def parse(text: str, rules: MathRules) -> tuple[Any, ...]:
    """What Math-Verify reads in a text: expressions and, last, the text it took them from."""
    from math_verify import ExprExtractionConfig, LatexExtractionConfig
    from math_verify import parse as math_verify_parse

    if _EXPLOSIVE.search(text) or depth(text) > MAX_DEPTH:
        raise TooBig("the answer is nested too deeply or explodes")
    latex = LatexExtractionConfig()
    if not rules.units:
        latex = LatexExtractionConfig(normalization_config=replace(latex.normalization_config, units=False))
    targets = {"latex": latex, "expr": ExprExtractionConfig()}
    return tuple(math_verify_parse(text, [targets[name] for name in rules.targets], parsing_timeout=None))


def agree(answer: tuple[Any, ...], gold: tuple[Any, ...], rules: MathRules) -> bool:
    """Math-Verify's comparison of what it parsed, refused where a number would be too large to write down."""
    from math_verify import verify

    if any(digits(part) > MAX_DIGITS for part in answer if not isinstance(part, str)):
        raise TooBig(f"the answer has a number of more than {MAX_DIGITS:.0f} digits")
    alone = rules.boxes == "math_verify"
    if not alone and answer and gold and differ(answer[0], gold[0], rules):
        return False
    return verify(
        list(gold),
        list(answer),
        float_rounding=rules.precision,
        strict=rules.variables,
        allow_set_relation_comp=rules.set_relations,
        timeout_seconds=None,
    )


def differ(answer: Any, gold: Any, rules: MathRules) -> bool:
    """Whether two expressions have clearly different values at a point, so that no simplification can make them equal.

    This spares wrong answers the slow part of Math-Verify. It also corrects that library for small numbers, which it
    rounds to 6 decimals: there four significant digits are compared.

    >>> from sympy import Float, Symbol
    >>> x = Symbol("x", real=True)
    >>> pairs = ((x + 1) ** 2, x**2 + 1), ((x + 1) ** 2, x**2 + 2 * x + 1), (Float("1e-10"), Float("2e-10"))
    >>> [differ(answer, gold, MathRules()) for answer, gold in pairs]
    [True, False, True]
    """
    sympy = importlib.import_module("sympy")
    unsafe = (sympy.Integral, sympy.Sum, sympy.Product, sympy.Limit, sympy.Derivative, sympy.UnevaluatedExpr)
    for part in (answer, gold):
        # A lone symbol can be a word, and an unevaluated factor of 1/100 a percent sign.
        if not isinstance(part, sympy.Expr) or part.is_Symbol or part.has(*unsafe):
            return False
    if not rules.variables and answer.free_symbols != gold.free_symbols:
        return False
    names = sorted(answer.free_symbols | gold.free_symbols, key=str)
    point = {name: sympy.Float(0.7301 + 0.2617 * place, 20) for place, name in enumerate(names)}
    try:
        there, here = (complex(part.subs(point).evalf(20)) for part in (answer, gold))
    except (ArithmeticError, AttributeError, NotImplementedError, RecursionError, TypeError, ValueError):
        return False
    if not (cmath.isfinite(there) and cmath.isfinite(here)):
        return False
    small = 0 < abs(here) < 1e-3
    limit = 5e-4 * abs(here) if small else 2 * 10.0**-rules.precision + 1e-9 * abs(here)
    return abs(there - here) > limit


def depth(text: str) -> int:
    """How deep braces and brackets stand in each other.

    >>> depth(r"\\sqrt{1+\\sqrt{2}}"), depth("((")
    (2, 2)
    """
    level = deepest = 0
    for sign in _BRACKETS.findall(text):
        level = level + 1 if sign in "{([" else max(0, level - 1)
        deepest = max(deepest, level)
    return deepest


def digits(expression: Any) -> float:
    """An upper bound on the digits of every number inside a SymPy expression once it is evaluated; a symbol has none.

    >>> from sympy import Integer, Pow
    >>> digits(Integer(10) ** 33), digits(Pow(5, Pow(5, Pow(5, 5, evaluate=False), evaluate=False), evaluate=False))
    (33.0, inf)
    """
    sympy = importlib.import_module("sympy")
    growing = importlib.import_module("sympy.functions.combinatorial.factorials").CombinatorialFunction

    if getattr(expression, "is_Number", False):
        return size(expression)
    parts = [digits(part) for part in (expression.flat() if hasattr(expression, "flat") else expression.args)]
    largest = max(parts, default=0.0)
    count = 10.0**largest if largest < 300 else math.inf
    if getattr(expression, "is_Pow", False) or isinstance(expression, sympy.exp):
        base, power = parts if len(parts) == 2 else (0.5, largest)
        return max(power, base * 10.0**power if power < 300 else math.inf) if base else largest
    if isinstance(expression, growing | sympy.gamma):
        return max(largest, largest * count)
    if isinstance(expression, sympy.Sum | sympy.Product):
        return largest if largest <= 4 else math.inf
    if getattr(expression, "is_Mul", False):
        return sum(parts)
    return largest + (math.log10(len(parts)) if getattr(expression, "is_Add", False) else 0.0)


def size(number: Any) -> float:
    """The digits of a SymPy number, of its numerator or denominator whichever is longer."""
    if not number.is_finite or number == 0:
        return 0.0
    if number.is_Rational:
        return math.log10(max(abs(number.p), number.q))
    return abs(float(number._mpf_[2] + number._mpf_[3]) * math.log10(2))
