"""Math-Verify under SieveRL's rules: it parses and compares what is no plain number, within limits of size."""

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
from sieverl.verify.guard import guard_sympy
from sieverl.verify.numbers import DEGREES, ungroup
from sieverl.verify.rules import MathRules
from sieverl.verify.verifier import NO_ANSWER, REFUSED, TooBig, binary, gold_answers

_E_NOTATION = re.compile(r"(?<![\w.}])([-+]?[0-9]+(?:\.[0-9]*)?)[eE]([-+]?[0-9]{1,3})(?![\w.^])")
_THOUSANDS = re.compile(r"(?<=[0-9])(?:,|\{,\})(?=[0-9]{3}(?![0-9]))")
_PERCENT = re.compile(r"\s*(?:\\?%|\\text\s*\{\s*(?:\\?%|percent)\s*\}|\bpercent)\s*$")
_DELIMITERS = re.compile(r"\$|\\\(|\\\[|\\boxed")
_BRACKETS = re.compile(r"[{}()\[\]]")
_FORMULA_END = re.compile(r"\$|\\[()\[\]]")
_AND = re.compile(r",?\s*\\text\s*\{\s*(?:and|or)\s*\}")  # Math-Verify reads it as a comma
_TEXT = r"\\(?:text(?:normal|bf|it|rm)?|mbox|math(?:rm|it|bf))\s*\{"
_WORDS = re.compile(_TEXT)
_UNITS = re.compile(
    rf"(?:{_TEXT}[^{{}}]*\}}(?:\^-?[0-9]|\^\{{-?[0-9]+\}}|\{{\^[0-9]\}})?(?:[\s~/*·.]|\\[ ,;:!]|\\cdot)*)+"
)
_ABOUT = re.compile(r"^(?:\\approx(?![a-zA-Z])|≈)")
_PHRASE = re.compile(r"[\w\s.,;:%$'-]*")
# Math-Verify evaluates these while it parses.
_EXPLOSIVE = re.compile(r"binom\s*\{?\s*[0-9]{6,}|[0-9]{6,}\s*\}?\s*\\choose")
MAX_DEPTH = 12  # of nested braces and brackets; from 20 on the parser needs minutes
MAX_DIGITS = 20_000.0  # of the largest number in an answer once it is evaluated
Expression = Any  # a SymPy object; SymPy has no type annotations
Parsed = tuple[object, ...]  # what Math-Verify parses: expressions and, last, the text that it parsed
TAIL = 2000  # characters at the end of a response without a box in which the answer is looked for


def prepare() -> None:
    """Import Math-Verify (half a second), and silence its warning about missing time limits: the pool sets them."""
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    importlib.import_module("math_verify")
    guard_sympy()


def verify_unboxed(response: str, golds: list[str], rules: MathRules) -> Verdict:
    """The verdict on a response without a box: Math-Verify looks for the answer at its end ("the answer is ...")."""
    text = ungroup(response[-TAIL:]) if rules.commas else response[-TAIL:]
    if "$" not in text:
        text = _E_NOTATION.sub(r"$\1\\times 10^{\2}$", text)
    answer = parse_text(text, unit_rules(text, rules))
    if not answer:
        return NO_ANSWER
    return binary(any(equal_parsed(answer, parse_answer(rewrite(gold, rules), rules), rules) for gold in golds))


def verify_whole(response: str, row: Row, rules: MathRules) -> Verdict:
    """The verdict when Math-Verify itself finds the answer, in the response and in the gold (LaTeX or plain text)."""
    if len(response) > rules.max_chars:
        return REFUSED
    latex = "latex" in rules.targets
    golds = [rf"\boxed{{{gold}}}" if latex and not _DELIMITERS.search(gold) else gold for gold in gold_answers(row)]
    try:
        answer = parse_text(response, rules)
        if not answer:
            return NO_ANSWER
        return binary(any(equal_parsed(answer, parse_text(gold, rules), rules) for gold in golds))
    except TooBig:
        return REFUSED


def rewrite(text: str, rules: MathRules) -> str:
    r"""Rewrite an answer for Math-Verify by the rules for percent signs, units, commas and e-notation.

    >>> rewrite("4.5e33 + x.", MathRules()), rewrite(r"x\%", MathRules()), rewrite("1,000", MathRules(commas=False))
    ('4.5\\times 10^{33} + x', 'x', '1, 000')
    """
    text = _ABOUT.sub("", text.strip())
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
def equal_expressions(answer: str, gold: str, rules: MathRules) -> bool:
    """Whether Math-Verify finds two answers equal. Cached, since the responses to a prompt repeat answers."""
    return equal_parsed(parse_answer(answer, rules), parse_answer(gold, rules), rules)


def unit_rules(text: str, rules: MathRules) -> MathRules:
    r"""The rules, without `units` where more than units stands behind the first words of a formula of the text.

    Math-Verify takes all from the first `\text{` to a last `}` for the unit, and so `7\text{ cm}+10^{9}` for 7.

    >>> texts = r"7\text{ m}\,\text{s}^{-1}", "7", r"7\text{ cm}+10^{9}"
    >>> [unit_rules(text, MathRules()).units for text in texts]
    [True, True, False]
    """
    formulas = [_AND.sub(", ", formula) for formula in _FORMULA_END.split(text)]
    if all(not (first := _WORDS.search(formula)) or _UNITS.fullmatch(formula, first.start()) for formula in formulas):
        return rules
    return replace(rules, units=False)


@lru_cache(2048)
def parse_answer(text: str, rules: MathRules) -> Parsed:
    """Parse the content of a box.

    In LaTeX that it cannot parse Math-Verify looks for a number or a fraction, so that `\\neq 7` and `x=7+` are 7 to
    it; here only in plain words, such as `7 apples`.
    """
    whole = "latex" in rules.targets and not _PHRASE.fullmatch(text)
    return parse_text(rf"\boxed{{{text}}}", unit_rules(text, rules), mode="first_match" if whole else "any_match")


def parse_text(text: str, rules: MathRules, mode: str = "any_match") -> Parsed:
    """Let Math-Verify find and parse the answer in a text. Raises TooBig."""
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse

    if _EXPLOSIVE.search(text) or depth(text) > MAX_DEPTH:
        raise TooBig("the answer is nested too deeply or too large to evaluate")
    latex = LatexExtractionConfig(boxed_match_priority=0 if mode == "first_match" else 50)
    if not rules.units:
        latex = replace(latex, normalization_config=replace(latex.normalization_config, units=False))
    targets = {"latex": latex, "expr": ExprExtractionConfig()}
    return tuple(parse(text, [targets[name] for name in rules.targets], extraction_mode=mode, parsing_timeout=None))


def equal_parsed(answer: Parsed, gold: Parsed, rules: MathRules) -> bool:
    """Math-Verify's comparison of parsed answers. Raises TooBig if a number would have too many digits."""
    from math_verify import verify

    if any(max_digits(part) > MAX_DIGITS for part in answer if not isinstance(part, str)):
        raise TooBig(f"the answer has a number of more than {MAX_DIGITS:.0f} digits")
    unaided = rules.boxes == "math_verify"
    if not unaided and answer and gold and differ(answer[0], gold[0], rules):
        return False
    return verify(
        list(gold),
        list(answer),
        float_rounding=rules.precision,
        strict=rules.variables,
        allow_set_relation_comp=rules.set_relations,
        timeout_seconds=None,
    )


def differ(answer: Expression, gold: Expression, rules: MathRules) -> bool:
    """Whether two expressions have clearly different values at a point, so that no simplification can make them equal.

    So most incorrect answers skip the slow part of Math-Verify. Small numbers, which that library rounds to 6 decimals,
    are compared to four significant digits here.

    >>> from sympy import Float, Symbol
    >>> x = Symbol("x", real=True)
    >>> pairs = ((x + 1) ** 2, x**2 + 1), ((x + 1) ** 2, x**2 + 2 * x + 1), (Float("1e-10"), Float("2e-10"))
    >>> [differ(answer, gold, MathRules()) for answer, gold in pairs]
    [True, False, True]
    """
    sympy = importlib.import_module("sympy")
    unsafe = (sympy.Integral, sympy.Sum, sympy.Product, sympy.Limit, sympy.Derivative, sympy.UnevaluatedExpr)
    for part in (answer, gold):
        # A lone symbol can be a word, and an unevaluated factor of 1/100 can be a percent sign.
        if not isinstance(part, sympy.Expr) or part.is_Symbol or part.has(*unsafe):
            return False
    if not rules.variables and answer.free_symbols != gold.free_symbols:
        return False
    names = sorted(answer.free_symbols | gold.free_symbols, key=str)
    point = {name: sympy.Float(0.7301 + 0.2617 * place, 20) for place, name in enumerate(names)}
    try:
        value, gold_value = (complex(part.subs(point).evalf(20)) for part in (answer, gold))
    except (ArithmeticError, AttributeError, NotImplementedError, RecursionError, TypeError, ValueError):
        return False
    if not (cmath.isfinite(value) and cmath.isfinite(gold_value)):
        return False
    small = 0 < abs(gold_value) < 1e-3
    limit = 5e-4 * abs(gold_value) if small else 2 * 10.0**-rules.precision + 1e-9 * abs(gold_value)
    return abs(value - gold_value) > limit


def depth(text: str) -> int:
    """How deeply braces and brackets are nested.

    >>> depth(r"\\sqrt{1+\\sqrt{2}}"), depth("((")
    (2, 2)
    """
    level = deepest = 0
    for sign in _BRACKETS.findall(text):
        level = level + 1 if sign in "{([" else max(0, level - 1)
        deepest = max(deepest, level)
    return deepest


def max_digits(expression: Expression) -> float:
    """An upper bound on the digits of every number that occurs when a SymPy expression is evaluated.

    >>> from sympy import Integer, Pow
    >>> tower = Pow(5, Pow(5, Pow(5, 5, evaluate=False), evaluate=False), evaluate=False)
    >>> max_digits(Integer(10) ** 33), max_digits(tower)
    (33.0, inf)
    """
    sympy = importlib.import_module("sympy")
    growing = importlib.import_module("sympy.functions.combinatorial.factorials").CombinatorialFunction

    if getattr(expression, "is_Number", False):
        return digits_of_number(expression)
    parts = [max_digits(part) for part in (expression.flat() if hasattr(expression, "flat") else expression.args)]
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


def digits_of_number(number: Expression) -> float:
    """The digits of a SymPy number: of its numerator or its denominator, whichever is longer."""
    if not number.is_finite or number == 0:
        return 0.0
    if number.is_Rational:
        return math.log10(max(abs(number.p), number.q))
    return abs(float(number._mpf_[2] + number._mpf_[3]) * math.log10(2))
