"""Where the answer stands in a response. Every rule is linear in the length of the text."""

from __future__ import annotations

import re
from collections.abc import Callable

_TOKEN = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)
_NUMBER = re.compile(
    r"(?<![\w.])[-+−]?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)?(?:\.[0-9]+|(?<=[0-9]))(?:[eE][-+]?[0-9]{1,3})?%?(?![\w])"
)


def boxed(text: str) -> list[str]:
    r"""The contents of every closed `\boxed{...}` or `\fbox{...}`, in order; of nested boxes the inner one.

    >>> boxed(r"so \boxed{\frac{1}{2}} and \boxed{x=\boxed{3}}, never \boxed{4")
    ['\\frac{1}{2}', '3']
    """
    found: list[str] = []
    opened: list[tuple[int, int, bool]] = []
    for token in _TOKEN.finditer(text):
        kind = token.group()
        if kind.endswith("{") and len(kind) != 2:
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


def last_number(text: str) -> str | None:
    """The last number of a text, as it is written.

    >>> last_number("from 3 apples to 1,200.50 of them.")
    '1,200.50'
    """
    numbers = _NUMBER.findall(text[-4000:])
    return numbers[-1] if numbers else None
