"""Where the answer stands in a response. Every rule is linear in the length of the text."""

from __future__ import annotations

import re
from collections.abc import Callable

from sieverl.types import Row
from sieverl.verify.check import golds

_TOKEN = re.compile(r"\\(?:boxed|fbox)\s*(?:\{|(?P<bare>[-+−]?[0-9][0-9.,/]*))|\\.|[{}]", re.DOTALL)
_NUMBER = re.compile(
    r"(?<![\w.])[-+−]?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)?(?:\.[0-9]+|(?<=[0-9]))(?:[eE][-+]?[0-9]{1,3})?%?(?![\w])"
)


def boxed(text: str) -> list[str]:
    r"""The contents of every closed `\boxed{...}` or `\fbox{...}`, in order; of nested boxes the inner one.

    A number may stand without braces, as TeX allows.

    >>> boxed(r"so \boxed{\frac{1}{2}} and \boxed{x=\boxed{3}} and \boxed 2, never \boxed{4")
    ['\\frac{1}{2}', '3', '2']
    """
    starts = [start for start in (text.find(r"\boxed"), text.find(r"\fbox")) if start >= 0]
    if not starts:
        return []
    found: list[str] = []
    opened: list[tuple[int, int, bool]] = []
    for token in _TOKEN.finditer(text, min(starts)):
        kind = token.group()
        if token["bare"]:
            found.append(token["bare"].rstrip(".,"))
        elif kind.endswith("{") and len(kind) != 2:
            opened.append((token.end(), len(found), len(kind) > 1))
        elif kind == "}" and opened:
            start, before, is_box = opened.pop()
            if is_box and len(found) == before:
                found.append(text[start : token.start()].strip())
    return found


def only(boxes: list[str]) -> list[str]:
    """The box, if all boxes say the same."""
    return boxes[-1:] if len({re.sub(r"\s", "", box) for box in boxes}) == 1 else []


BOXES: dict[str, Callable[[list[str]], list[str]]] = {
    "last": lambda boxes: boxes[-1:],
    "first": lambda boxes: boxes[:1],
    "only": only,
    "any": lambda boxes: list(dict.fromkeys(boxes)),
    "joined": lambda boxes: [", ".join(dict.fromkeys(boxes))] if boxes else [],
}


def marked(response: str, boxes: str, after: str | None) -> list[str] | None:
    r"""The answers that count: what stands behind the last `after`, else the boxes by their rule.

    Empty when the boxes contradict each other, None when nothing is marked as the answer.

    >>> [marked(text, "only", None) for text in (r"\boxed{1}, \boxed{1}", r"\boxed{1}, \boxed{2}", "1")]
    [['1'], [], None]
    """
    behind = after_marker(response, after) if after else None
    if behind:
        return (boxed(behind) or [behind])[-1:]
    found = [box for box in boxed(response) if box]
    return BOXES[boxes](found) if found else None


def gold_texts(row: Row, after: str | None) -> list[str]:
    """The gold answers, less the solution around them: from behind the marker, out of the last box."""
    return [(marked(gold, "last", after) or [gold])[0] for gold in golds(row)]


def after_marker(text: str, marker: str) -> str | None:
    r"""What follows the last `marker`, to the end of its line; None without a marker.

    >>> after_marker("so it is 4.\nA: 4\n", "A:")
    '4'
    """
    start = text.rfind(marker)
    if start < 0:
        return None
    lines = text[start + len(marker) :].strip().splitlines()
    return lines[0].strip() if lines else ""


def numbers_in(text: str) -> list[str]:
    """The numbers of a text (of its last 4,000 characters), as they are written.

    >>> numbers_in("from -3 apples to 1,200.50 of them, 5% more.")
    ['-3', '1,200.50', '5%']
    """
    return _NUMBER.findall(text[-4000:])
