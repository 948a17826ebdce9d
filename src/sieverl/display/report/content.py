"""What stands on the page of a report: plain values, made from runs and turned into HTML by the template.

Every text in them may have been written by others; the template escapes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup


@dataclass(frozen=True)
class Figure:
    """A chart, the name of its file, and one sentence that says what good looks like."""

    name: str
    svg: Markup
    caption: str


@dataclass(frozen=True)
class Table:
    """A table whose first column names its rows. `folded` ones are opened by the reader."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    folded: bool = False


@dataclass(frozen=True)
class Fact:
    """A number that a reader wants first."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Response:
    """A response and its verdict; `facts` are pairs of a name and a value, `right` is the verdict."""

    text: str
    right: bool
    facts: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Group:
    """A prompt with responses to it; an `open` one need not be opened by the reader."""

    title: str
    prompt: str
    answer: str
    responses: Sequence[Response]
    note: str = ""
    open: bool = False


@dataclass(frozen=True)
class Examples:
    """Groups under a heading, with a sentence about them."""

    title: str
    about: str
    groups: Sequence[Group]


@dataclass(frozen=True)
class Report:
    """The whole page. `problems` are what could not be read, in words."""

    title: str
    about: str
    facts: Sequence[Fact] = ()
    tables: Sequence[Table] = ()
    figures: Sequence[Figure] = ()
    examples: Sequence[Examples] = ()
    background: Sequence[Table] = ()
    problems: Sequence[str] = field(default_factory=list)


def cut(text: object, most: int = 1500) -> str:
    """The text, cut where it is long, with a note of what is left out.

    >>> cut("abcdef", 4), cut(None)
    ('abcd [... 2 more characters]', '')
    """
    whole = "" if text is None else str(text)
    return whole if len(whole) <= most else f"{whole[:most]} [... {len(whole) - most:,} more characters]"


def spread(values: Sequence[int], most: int) -> list[int]:
    """At most that many of the values, evenly spread, the first and the last among them.

    >>> spread(range(10), 4), spread([5, 7], 4), spread([1, 2, 3], 1)
    ([0, 3, 6, 9], [5, 7], [3])
    """
    if len(values) <= most:
        return list(values)
    if most == 1:
        return [values[-1]]
    return [values[round(i * (len(values) - 1) / (most - 1))] for i in range(most)]
