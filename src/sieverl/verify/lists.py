"""Compare lists, tuples and intervals of plain numbers without Math-Verify, where both surely agree."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from sieverl.verify.numbers import Exact, parse_number

_LIST = re.compile(r"(?P<open>[(\[]|\\\{)?(?P<inside>[^()\[\]]*?)(?P<close>[)\]]|\\\})?")
_THOUSANDS = re.compile(r"[0-9],[0-9]{3}(?![0-9])")  # 100,200 can be one number or two


class Numbers(NamedTuple):
    """Plain numbers in order, and the brackets around them, such as `(]`; no brackets for a set or a bare list."""

    brackets: str
    items: tuple[Exact, ...]


def parse_list(text: str) -> Numbers | None:
    r"""Parse a tidied text that lists plain numbers, or is one number; None for any other text.

    >>> [parse_list(text).brackets for text in ("(1,2]", "1,2", r"\{1,2\}", "7")]
    ['(]', '', '', '']
    >>> [parse_list(text) for text in ("(x,2)", "100,200", "(1,2")]
    [None, None, None]
    """
    match = _LIST.fullmatch(text)
    if match is None or _THOUSANDS.search(text):
        return None
    brackets = (match["open"] or "") + (match["close"] or "")
    if brackets not in ("", r"\{\}", "()", "(]", "[)", "[]"):
        return None
    items = [parse_number(part.strip()) for part in match["inside"].split(",")]
    found = tuple(item for item in items if item is not None and not item.percent)
    if len(found) < len(items) or (brackets and len(items) < 2):
        return None
    if brackets in ("(]", "[)") and not (len(items) == 2 and found[0].value < found[1].value):
        return None  # no interval
    return Numbers("" if "{" in brackets else brackets, found)


def equal_lists(answer: Numbers, gold: Numbers, equal: Callable[[Exact, Exact], bool]) -> bool | None:
    """Whether two lists are equal; None where Math-Verify has to decide, as for (1,2) and 1,2.

    >>> def equal(a, b): return equal_lists(parse_list(a), parse_list(b), lambda x, y: x.value == y.value)
    >>> equal("(1,2)", "(2,1)"), equal("1,2", "2,1"), equal("(1,2)", "1,2"), equal("(1,2)", "3")
    (False, True, None, False)
    """
    if answer.brackets != gold.brackets:
        return None if len(answer.items) == len(gold.items) else False
    if answer.brackets:
        pairs = zip(answer.items, gold.items, strict=False)
        return len(answer.items) == len(gold.items) and all(equal(a, b) for a, b in pairs)
    values = [{item.value for item in items} for items in (answer.items, gold.items)]
    rounded = any(item.decimal for item in (*answer.items, *gold.items))
    return True if values[0] == values[1] else (None if rounded else False)
