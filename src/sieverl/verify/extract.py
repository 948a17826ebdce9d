r"""Find the answer in a response: in a `\boxed{...}` or after a marker such as `A:`, in time linear in its length."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from sieverl.types import Row
from sieverl.verify.numbers import ungroup
from sieverl.verify.verifier import gold_answers

_BOX = r"\\(?:boxed|fbox)"
_TOKEN = re.compile(rf"{_BOX}\s*(?:\{{|(?P<bare>[-+−]?[0-9][0-9.,/]*))|\\.|[{{}}]", re.DOTALL)
_WORD = rf"(?:(?!{_BOX})[^\s$.,]|[.,](?=[0-9]))*"  # possibly empty
_SOLUTION_TOKEN = re.compile(rf"\\?{_BOX}(?![a-zA-Z])\s*(?:\{{|(?P<bare>{_WORD}))|\\.|[{{}}]", re.DOTALL)
_JOINING_WORD = re.compile(r",|\b(?:and|or)\b")
_JOINING = re.compile(  # what may stand between two boxes of one list
    r"\s+|\$|~|,|\b(?:and|or)\b|\\[,;:!()\[\] ]|\\q?quad\b"
    r"|\\(?:text|textrm|textbf|mathrm|mbox)\s*\{[\s,~]*(?:and|or)?[\s,~]*\}"
)
BETWEEN = 80  # most characters between two boxes of one list
_NUMBER = re.compile(
    r"(?<![\w.])[-+−]?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)?(?:\.[0-9]+|(?<=[0-9]))(?:[eE][-+]?[0-9]{1,3})?%?(?![\w])"
)


class Box(NamedTuple):
    """The content of a box, and where the box begins and ends in the text."""

    content: str
    start: int
    end: int


def boxes_in(text: str, in_solution: bool = False) -> list[Box]:
    r"""Every closed `\boxed{...}` or `\fbox{...}` in order; of nested boxes only the innermost.

    A number may stand without braces, as TeX allows. The worked solution of a dataset (`in_solution`) is treated
    differently from a response in three ways: any word may stand without braces; a box whose backslash was escaped
    twice counts; and when the last box is never closed there is none at all, since the answer is cut off.

    >>> [box.content for box in boxes_in(r"\boxed{\frac{1}{2}}, \boxed{x=\boxed{3}} and \boxed 2, never \boxed{4")]
    ['\\frac{1}{2}', '3', '2']
    >>> boxes_in(r"\boxed{1}, never closed: \boxed{2", in_solution=True)
    []
    """
    starts = [start for start in (text.find(r"\boxed"), text.find(r"\fbox")) if start >= 0]
    if not starts:
        return []
    start = len(text[: min(starts)].rstrip("\\"))  # the backslash found may itself be escaped
    found: list[Box] = []
    open_braces: list[tuple[re.Match[str], int]] = []
    last_start = 0
    for token in (_SOLUTION_TOKEN if in_solution else _TOKEN).finditer(text, start):
        kind = token.group()
        if token["bare"] is not None:
            content = token["bare"].rstrip(".,")
            found.append(Box(content, token.start(), token.start("bare") + len(content)))
            last_start = token.start()
        elif kind.endswith("{") and len(kind) != 2:  # of two characters is the escaped `\{`
            open_braces.append((token, len(found)))
            last_start = token.start() if len(kind) > 1 else last_start
        elif kind == "}" and open_braces:
            opening, before = open_braces.pop()
            if len(opening.group()) > 1 and len(found) == before:
                found.append(Box(text[opening.end() : token.start()].strip(), opening.start(), token.end()))
    return [] if in_solution and found and found[-1].start != last_start else found


def box_contents(text: str) -> list[str]:
    r"""The contents of the boxes of a response, in order.

    >>> box_contents(r"first \boxed{1}, then \boxed{2}")
    ['1', '2']
    """
    return [box.content for box in boxes_in(text)]


def only_box(text: str, boxes: Sequence[Box]) -> list[str]:
    """The content of the boxes if all have the same, up to white space; else nothing."""
    return [boxes[-1].content] if len({re.sub(r"\s", "", box.content) for box in boxes}) == 1 else []


def last_list(text: str, boxes: Sequence[Box]) -> list[str]:
    r"""The last box joined with those before it, as long as only "and", "or" and commas stand between them.

    Any other later box replaces the earlier ones. The joined boxes are one answer, so another guess beside the correct
    one makes it incorrect.

    >>> [marked(text, "sentence", None) for text in (r"\boxed{-2} and $\boxed{1}$", r"\boxed{2}, no, \boxed{1}")]
    [['-2, 1'], ['1']]
    """
    first = len(boxes) - 1
    while first > 0 and in_one_list(text, boxes[first - 1].end, boxes[first].start):
        first -= 1
    return [joined([box.content for box in boxes[first:]])]


def in_one_list(text: str, start: int, end: int) -> bool:
    """Whether the text between two boxes, from `start` to `end`, makes them items of one list."""
    between = text[start:end]
    return end - start <= BETWEEN and bool(_JOINING_WORD.search(between)) and not _JOINING.sub("", between)


def joined(texts: Sequence[str]) -> str:
    """Several answers as one list without repetitions."""
    return ", ".join(dict.fromkeys(texts))


# the option `boxes`: which of several boxes are the answers
BOXES: dict[str, Callable[[str, Sequence[Box]], list[str]]] = {
    "last": lambda text, boxes: [boxes[-1].content],
    "first": lambda text, boxes: [boxes[0].content],
    "only": only_box,
    "any": lambda text, boxes: list(dict.fromkeys(box.content for box in boxes)),
    "joined": lambda text, boxes: [joined([box.content for box in boxes])],
    "sentence": last_list,
}


def marked(response: str, boxes: str, after: str | None) -> list[str] | None:
    r"""The answers that a response marks: the text after the last marker `after`, else its boxes by the rule `boxes`.

    Empty if the boxes contradict each other, None if nothing is marked as the answer.

    >>> [marked(text, "only", None) for text in (r"\boxed{1}, \boxed{1}", r"\boxed{1}, \boxed{2}", "1")]
    [['1'], [], None]
    """
    behind = after_marker(response, after) if after else None
    if behind:
        return (box_contents(behind) or [behind])[-1:]
    found = [box for box in boxes_in(response) if box.content]
    return BOXES[boxes](response, found) if found else None


def marked_golds(row: Row, after: str | None, boxes: str = "last") -> list[str]:
    """The gold answers of a row. One that is a whole solution is reduced to what it marks as its answer."""
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
    """The numbers in the last 4,000 characters of a text, as they are written.

    >>> numbers_in("from -3 apples to 1,200.50 of them, 5% more.")
    ['-3', '1,200.50', '5%']
    """
    return _NUMBER.findall(ungroup(text[-4000:], by=","))
