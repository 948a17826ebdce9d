"""Lists, tuples and intervals of plain numbers, compared without Math-Verify where that is sure to agree."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from sieverl.verify.numbers import Exact, read

_LIST = re.compile(r"(?P<open>[(\[]|\\\{)?(?P<inside>[^()\[\]]*?)(?P<close>[)\]]|\\\})?")
_THOUSANDS = re.compile(r"[0-9],[0-9]{3}(?![0-9])")  # 100,200 may be one number or two


class Numbers(NamedTuple):
    """The brackets around plain numbers, such as `(]`, empty for a set or a bare list; and the numbers in order."""

    brackets: str
    items: tuple[Exact, ...]


def read_list(text: str) -> Numbers | None:
    r"""The plain numbers that a tidied text lists, or None; a lone number is a list of one.

    >>> [read_list(text).brackets for text in ("(1,2]", "1,2", r"\{1,2\}", "7")]
    ['(]', '', '', '']
    >>> [read_list(text) for text in ("(x,2)", "100,200", "(1,2")]
    [None, None, None]
    """
    match = _LIST.fullmatch(text)
    if match is None or _THOUSANDS.search(text):
        return None
    brackets = (match["open"] or "") + (match["close"] or "")
    if brackets not in ("", r"\{\}", "()", "(]", "[)", "[]"):
        return None
    items = [read(part.strip()) for part in match["inside"].split(",")]
    found = tuple(item for item in items if item is not None and not item.percent)
    if len(found) < len(items) or (brackets and len(items) < 2):
        return None
    if brackets in ("(]", "[)") and not (len(items) == 2 and found[0].value < found[1].value):
        return None  # no interval
    return Numbers("" if "{" in brackets else brackets, found)


def same_list(answer: Numbers, gold: Numbers, same: Callable[[Exact, Exact], bool]) -> bool | None:
    """Whether two lists are the same; None where Math-Verify has to say, as for (1,2) beside 1,2.

    >>> def told(a, b): return same_list(read_list(a), read_list(b), lambda x, y: x.value == y.value)
    >>> told("(1,2)", "(2,1)"), told("1,2", "2,1"), told("(1,2)", "1,2"), told("(1,2)", "3")
    (False, True, None, False)
    """
    if answer.brackets != gold.brackets:
        return None if len(answer.items) == len(gold.items) else False
    if answer.brackets:
        pairs = zip(answer.items, gold.items, strict=False)
        return len(answer.items) == len(gold.items) and all(same(a, b) for a, b in pairs)
    values = [{item.value for item in items} for items in (answer.items, gold.items)]
    rounded = any(item.decimal for item in (*answer.items, *gold.items))
    return True if values[0] == values[1] else (None if rounded else False)
