"""Where the answer stands in a response. Every rule is linear in the length of the text."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from sieverl.types import Row
from sieverl.verify.check import gold_answers
from sieverl.verify.numbers import ungroup

_TOKEN = re.compile(r"\\(?:boxed|fbox)\s*(?:\{|(?P<bare>[-+−]?[0-9][0-9.,/]*))|\\.|[{}]", re.DOTALL)
_WORD = re.compile(r",|\b(?:and|or)\b")
_LEFT = re.compile(  # what may stand between the boxes of one sentence
    r"\s+|\$|~|,|\b(?:and|or)\b|\\[,;:!()\[\] ]|\\q?quad\b"
    r"|\\(?:text|textrm|textbf|mathrm|mbox)\s*\{[\s,~]*(?:and|or)?[\s,~]*\}"
)
BETWEEN = 80  # characters between two boxes of one sentence
_NUMBER = re.compile(
    r"(?<![\w.])[-+−]?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)?(?:\.[0-9]+|(?<=[0-9]))(?:[eE][-+]?[0-9]{1,3})?%?(?![\w])"
)


class Box(NamedTuple):
    """What stands in a box, and where the box begins and ends in the text."""

    inside: str
    start: int
    end: int


def boxed(text: str) -> list[str]:
    r"""The contents of every closed `\boxed{...}` or `\fbox{...}`, in order; of nested boxes the inner one.

    A number may stand without braces, as TeX allows.

    >>> boxed(r"so \boxed{\frac{1}{2}} and \boxed{x=\boxed{3}} and \boxed 2, never \boxed{4")
    ['\\frac{1}{2}', '3', '2']
    """
    return [box.inside for box in boxes_in(text)]


def boxes_in(text: str) -> list[Box]:
    """The boxes of a text with their places."""
    starts = [start for start in (text.find(r"\boxed"), text.find(r"\fbox")) if start >= 0]
    if not starts:
        return []
    found: list[Box] = []
    opened: list[tuple[re.Match[str], int]] = []
    for token in _TOKEN.finditer(text, min(starts)):
        kind = token.group()
        if token["bare"]:
            bare = token["bare"].rstrip(".,")
            found.append(Box(bare, token.start(), token.start("bare") + len(bare)))
        elif kind.endswith("{") and len(kind) != 2:
            opened.append((token, len(found)))
        elif kind == "}" and opened:
            opening, before = opened.pop()
            if len(opening.group()) > 1 and len(found) == before:
                found.append(Box(text[opening.end() : token.start()].strip(), opening.start(), token.end()))
    return found


def only(text: str, boxes: Sequence[Box]) -> list[str]:
    """The box, if all boxes say the same."""
    return [boxes[-1].inside] if len({re.sub(r"\s", "", box.inside) for box in boxes}) == 1 else []


def sentence(text: str, boxes: Sequence[Box]) -> list[str]:
    r"""The last box, with those before it that it continues: only "and", "or" and commas stand between them.

    Any other box replaces what was said before it. All boxes that count are one answer, so that another guess beside
    the right one makes it wrong.

    >>> [marked(text, "sentence", None) for text in (r"\boxed{-2} and $\boxed{1}$", r"\boxed{2}, no, \boxed{1}")]
    [['-2, 1'], ['1']]
    """
    first = len(boxes) - 1
    while first > 0 and joins(text, boxes[first - 1].end, boxes[first].start):
        first -= 1
    return [joined([box.inside for box in boxes[first:]])]


def joins(text: str, start: int, end: int) -> bool:
    """Whether what stands between two boxes makes them one list."""
    between = text[start:end]
    return end - start <= BETWEEN and bool(_WORD.search(between)) and not _LEFT.sub("", between)


def joined(texts: Sequence[str]) -> str:
    """Several answers as one list, each once."""
    return ", ".join(dict.fromkeys(texts))


BOXES: dict[str, Callable[[str, Sequence[Box]], list[str]]] = {
    "last": lambda text, boxes: [boxes[-1].inside],
    "first": lambda text, boxes: [boxes[0].inside],
    "only": only,
    "any": lambda text, boxes: list(dict.fromkeys(box.inside for box in boxes)),
    "joined": lambda text, boxes: [joined([box.inside for box in boxes])],
    "sentence": sentence,
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
    found = [box for box in boxes_in(response) if box.inside]
    return BOXES[boxes](response, found) if found else None


def gold_texts(row: Row, after: str | None, boxes: str = "last") -> list[str]:
    """The gold answers, less the solution around them: from behind the marker, out of the last box or sentence."""
    rule = "sentence" if boxes == "sentence" else "last"
    return [(marked(gold, rule, after) or [gold])[0] for gold in gold_answers(row)]


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
    return _NUMBER.findall(ungroup(text[-4000:], by=","))
