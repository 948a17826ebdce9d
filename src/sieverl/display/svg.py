"""Pieces of SVG: text that is safe whoever wrote it, paths with gaps, the frame of a chart, and a chart as a file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from markupsafe import Markup

from sieverl.text import printable

T = TypeVar("T")
WIDTH = 440


def clean(text: str, most: int = 300) -> str:
    """Text as an XML file may hold it, cut where it is long.

    >>> clean("a\\x00b" + "c" * 9, 5)
    'a\\\\x00bcc…'
    """
    return re.sub("[\ufffe\uffff]", "", printable(text[:most])) + ("\u2026" if len(text) > most else "")


def cut(text: str, most: int) -> str:
    """At most that many characters on one line."""
    return clean(" ".join(text[: 2 * most].split()), most - 1)


def picture(title: str, about: str, height: float, body: Sequence[Markup]) -> Markup:
    """The whole chart: its name and what it shows come first, for those who do not see it."""
    head = '<svg class="chart" role="img" viewBox="0 0 {} {}"><title>{}</title><desc>{}</desc>{}{}</svg>'
    heading = words(4, 16, cut(title, 66), "title")
    return Markup(head).format(WIDTH, height, clean(title), clean(about, 900), heading, Markup("").join(body))


def words(x: float, y: float, text: str, kind: str = "name") -> Markup:
    """Text at a place."""
    return Markup('<text x="{:.1f}" y="{:.1f}" class="{}">{}</text>').format(x, y, kind, clean(text))


def stretches(points: Sequence[T | None]) -> Iterator[list[T]]:
    """The parts between gaps."""
    part: list[T] = []
    for point in [*points, None]:
        if point is not None:
            part.append(point)
        elif part:
            yield part
            part = []


def path(points: Sequence[tuple[float, float] | None]) -> str:
    """The path through points, interrupted where one is missing; a point on its own is a dot."""
    parts = ("L".join(f"{x:.1f} {y:.1f}" for x, y in part) for part in stretches(points))
    return "".join(f"M{part}" + ("" if "L" in part else "h0.1") for part in parts)


def style() -> str:
    """The rules that a page with charts needs."""
    return Path(__file__).with_name("charts.css").read_text(encoding="utf-8")


def standalone(svg: Markup) -> str:
    """A chart as a file of its own, with light colours that every program understands."""
    rules = style()
    colours = dict(re.findall(r"--(\w+): light-dark\((#\w+),", rules))
    rules = re.sub(r"/\*.*?\*/|:root[^{]*\{[^}]*\}", "", rules, flags=re.DOTALL)
    rules = re.sub(r"var\(--(\w+)\)", lambda found: colours[found[1]], rules)
    sheet = f"<style>.chart {{ background: {colours['paper']}; }}{rules}</style>"
    head, rest = str(svg).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1).split(">", 1)
    return f"{head}>{sheet}{rest}\n"
