"""The console that every command prints on: what is printed is text, whoever wrote it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from sieverl.text import printable


class Terminal(Console):
    """Rich's console, without markup in strings, and with every character that would steer the terminal escaped.

    Prompts, answers, responses and error messages were written by others: models, data sets, servers. Our own styles
    are given as `style=` or as a `Text`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"markup": False, "emoji": False, **options})

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The segments of a renderable; those with text are made printable."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))
