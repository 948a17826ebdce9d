"""Math-Verify behind SieveRL's rules: what is not a plain number is parsed and compared by it, within a size limit."""

from __future__ import annotations

import logging
import math
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sieverl.types import Row, Verdict
from sieverl.verify.check import NO_ANSWER, REFUSED, binary, golds

if TYPE_CHECKING:
    from sieverl.verify.math import Rules

_E_NOTATION = re.compile(r"(?<![\w.}])([-+]?[0-9]+(?:\.[0-9]*)?)[eE]([-+]?[0-9]{1,3})(?![\w.^])")
_THOUSANDS = re.compile(r"(?<=[0-9])(?:,|\{,\})(?=[0-9]{3}(?![0-9]))")
_PERCENT = re.compile(r"\s*(?:\\?%|\\text\s*\{\s*(?:\\?%|percent)\s*\}|\bpercent)\s*$")
# What Math-Verify evaluates while it still parses.
_EXPLOSIVE = re.compile(r"binom\s*\{?\s*[0-9]{6,}|[0-9]{6,}\s*\}?\s*\\choose")
MAX_DEPTH = 20  # nesting at which its grammar begins to need seconds
MAX_DIGITS = 20_000.0  # size of the largest number that an answer may spell out
TAIL = 2000  # characters of an unboxed response that are read


class TooBig(Exception):
    """An answer that would take too long to read or to evaluate."""


def prepare() -> None:
    """Import Math-Verify (half a second), and turn off its warnings that no alarm is set: the pool limits the time."""
    import math_verify  # noqa: F401
    logging.getLogger("math_verify").setLevel(logging.ERROR)


def same(answer: str, gold: str, rules: Rules) -> bool:
    """Whether two answers are the same: cheaply where that decides, else by Math-Verify. Raises TooBig."""
    from sieverl.verify.math import same_cheaply

    told = same_cheaply(answer, gold, rules)
    return compare(rewrite(answer, rules), rewrite(gold, rules), rules) if told is None else told
