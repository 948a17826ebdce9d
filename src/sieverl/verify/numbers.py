"""Parse and compare numbers exactly: integers, decimals, fractions and powers of ten, in the notations of answers."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

PERCENT = ("drop", "value", "either")  # the option `percent`
_NOISE = re.compile(r"\\!|\\,(?=[0-9]{3}(?![0-9]))|\\?\$|\\(?:left|right)(?![a-zA-Z])|\\displaystyle(?![a-zA-Z])")
_THIN = re.compile(r"(?<=[0-9])(?:,\\!\s*|\{,\}(?:\\!\s*)?)(?=[0-9]{3}(?![0-9]))")
_DOUBLE = re.compile(r"\\\\\s*")  # a double backslash: escaped twice, or the line end of a matrix
_BLANK = re.compile(r"(?:\\[,;: ]|~|\s)+")
# Only meaningless blanks are removed: not those of `3 1/2`, nor that of the list `1, 200`.
_SPACE = re.compile(r"(?<![A-Za-z0-9,]) | (?![A-Za-z0-9])|(?<=,) (?![0-9]{3}(?![0-9]))")
_FRAC = re.compile(r"\\[dtc]frac(?![a-zA-Z])")
_COMMAND = re.compile(r"(\\[A-Za-z]+) (?=[0-9])")
_WRAP = re.compile(r"(?:\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox))?\s*\{([^{}\\]*)\}")
_UNIT = re.compile(r"(?<=[0-9}%)])\s*(?:\\(?:text|textrm|mathrm|mbox)\s*\{[^{}]*\}(?:\^(?:[0-9]|\{-?[0-9]\}))?)+$")
_PERCENT = re.compile(r"\s*(?:\\text\s*\{\s*(?:\\?%|percent)\s*\}|(?<=[0-9 ])percent)\s*\.?\s*$")
DEGREES = re.compile(r"\^\s*(?:\\circ(?![A-Za-z])|\{\s*\\circ\s*\})|°")
_EXACT = re.compile(
    r"""(?P<sign>[-+]?)(?:
      (?:\\frac\s*(?:\{(?P<top>[0-9]{1,300})\}|(?P<top1>[0-9]))\s*(?:\{(?P<low>[0-9]{1,300})\}|(?P<low1>[0-9])))
    | (?P<left>[0-9]{1,300})/(?P<right>[0-9]{1,300})
    | (?P<whole>(?P<grouped>[0-9]{1,3}(?:(?:,|\{,\})[0-9]{3})+)|[0-9]{1,300})?(?P<point>\.[0-9]{0,300})?
      (?:[eE](?P<e>[-+]?[0-9]{1,3})|\s*(?:\\times|\\cdot|\\ast|[*×·xX])\s*10(?:\^|\*\*)(?:\{(?P<e1>[-+]?[0-9]{1,3})\}|(?P<e2>[-+]?[0-9]{1,3})))?
    | 10\^(?:\{(?P<e3>[-+]?[0-9]{1,3})\}|(?P<e4>[0-9]))
    )(?P<percent>(?:\\?%)?)""",
    re.VERBOSE,
)


class Exact(NamedTuple):
    """The value of a number, and whether it was written with a decimal point, a percent sign, grouped digits, an `e`.

    The value does not include the percent sign: that of 50% is 50.
    """

    value: Fraction
    decimal: bool
    percent: bool
    grouped: bool
    e_notation: bool


def ungroup(text: str, by: str = "") -> str:
    r"""Replace by `by` the commas that can only group digits: those with a thin space, or in braces.

    >>> ungroup(r"11,\!111,\!100"), ungroup("(2{,}000, 1,200)"), ungroup(r"3,\!14")
    ('11111100', '(2000, 1,200)', '3,\\!14')
    """
    return _THIN.sub(by, text)


@lru_cache(4096)
def tidy(text: str) -> str:
    r"""Normalise LaTeX that looks the same on paper: no spacing commands, no `$`, no `\left`, no final full stop.

    >>> tidy(r" $\left( 3, \dfrac{\pi}{2} \right)$. ")
    '(3,\\frac{\\pi}{2})'
    >>> tidy(r"\text{ (B) }"), tidy("{A, B}"), tidy("3 1/2"), tidy(r"50\text{ percent}")
    ('(B)', 'A,B', '3 1/2', '50%')
    """
    text = _PERCENT.sub("%", text)
    text = _FRAC.sub(r"\\frac", _NOISE.sub("", _DOUBLE.sub(r"\\", text.replace("−", "-"))))
    text = _COMMAND.sub(r"\1", _SPACE.sub("", _BLANK.sub(" ", text)).strip())
    if text.endswith(".") and not text.endswith(".."):
        text = text[:-1].rstrip()
    wrapped = _WRAP.fullmatch(text)
    return tidy(wrapped.group(1)) if wrapped else text


def without_unit(text: str) -> str:
    r"""A tidied answer without the unit at its end, and without degree signs.

    >>> without_unit(r"5\mathrm{cm}^2"), without_unit(r"60^\circ,120^\circ"), without_unit(r"\text{cm}")
    ('5', '60,120', '\\text{cm}')
    """
    return _UNIT.sub("", DEGREES.sub("", text))


@lru_cache(4096)
def parse_number(text: str) -> Exact | None:
    r"""Parse a tidied text that is one number; None for any other text.

    >>> [parse_number(text).value for text in ("1,200.5", r"4.5\times 10^{3}", r"-\frac{1}{2}", "50%")]
    [Fraction(2401, 2), Fraction(4500, 1), Fraction(-1, 2), Fraction(50, 1)]
    >>> parse_number("50%").percent, parse_number("x+1"), parse_number("1 2")
    (True, None, None)
    """
    match = _EXACT.fullmatch(text) if len(text) < 700 else None
    if match is None:
        return None
    part = match.groupdict()
    top, low = part["top"] or part["top1"] or part["left"], part["low"] or part["low1"] or part["right"]
    exponent = next((part[key] for key in ("e", "e1", "e2", "e3", "e4") if part[key]), None)
    digits = (part["whole"] or "").replace("{,}", "").replace(",", "") + (part["point"] or "").rstrip(".")
    if top:
        if int(low) == 0:
            return None
        value = Fraction(int(top), int(low))
    elif digits:
        value = Fraction(digits) * Fraction(10) ** int(exponent or 0)
    elif part["e3"] or part["e4"]:
        value = Fraction(10) ** int(exponent or 0)
    else:
        return None
    value = -value if part["sign"] == "-" else value
    return Exact(value, bool(part["point"]), bool(part["percent"]), bool(part["grouped"]), bool(part["e"]))


def equal_values(answer: Exact, gold: Exact, precision: int = 6, tolerance: float = 0.0) -> bool:
    """Whether two numbers are equal: exactly, or after rounding if one is a decimal and neither is a whole number.

    Rounding keeps `precision` decimals and at least four significant digits (or `precision`, if that is less), so that
    1.1e-10 and 1.2e-10 differ. A relative error of up to `tolerance` is allowed as well.

    >>> pairs = ("0.333333", "1/3"), ("0.33", "1/3"), ("7.0", "7"), ("7.0000001", "7"), ("1.1e-10", "1.2e-10")
    >>> [equal_values(parse_number(answer), parse_number(gold)) for answer, gold in pairs]
    [True, False, True, False, False]
    """
    a, b = answer.value, gold.value
    if a == b:
        return True
    if tolerance and abs(a - b) <= Fraction(tolerance) * abs(b):
        return True
    if not (answer.decimal or gold.decimal) or a.denominator == 1 or b.denominator == 1:
        return False
    magnitude = math.floor(math.log10(abs(b.numerator)) - math.log10(b.denominator))
    places = max(precision, min(4, precision) - 1 - magnitude)
    return round(a, places) == round(b, places)


def equal_numbers(answer: Exact, gold: Exact, percent: str, precision: int, tolerance: float) -> bool:
    """`equal_values` under a percent rule: `drop` (50% is 50), `value` (50% is 0.5) or `either`."""
    scaled = [number._replace(value=number.value / (100 if number.percent else 1)) for number in (answer, gold)]
    dropped = percent != "value" and equal_values(answer, gold, precision, tolerance)
    return dropped or (percent != "drop" and equal_values(scaled[0], scaled[1], precision, tolerance))
