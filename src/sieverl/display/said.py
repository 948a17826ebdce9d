"""Notes that come again and again: counted, and not repeated."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console

from sieverl.text import printable
from sieverl.types import Note

WIDTH = 80  # columns of a line, on a wider terminal too
_NUMBER = re.compile(r"(?<![\w/.-])\d[\d.,]*%?")


def kind(text: str) -> str:
    """A note without its numbers; those in the name of a file stay.

    >>> kind("nothing kept: 84% of prompts all wrong, 16% all correct")
    'nothing kept: # of prompts all wrong, # all correct'
    >>> kind("NaN: 12 losses; the batch is in inspect/step-000002.safetensors")
    'NaN: # losses; the batch is in inspect/step-000002.safetensors'
    """
    return _NUMBER.sub("#", text)


@dataclass
class Said:
    """A note in its last words, how often it came, and in which step at last; `shown` of the times have been told."""

    text: str
    times: int = 0
    last: int = 0
    shown: int = 0

    def __str__(self) -> str:
        """The note, counted where it came more than once."""
        return self.text if self.times == 1 else f"{self.text} ({self.times} times, last at step {self.last})"


class Notes:
    """The notes of a run by their kinds, in the order in which they came first.

    >>> notes = Notes()
    >>> [str(notes.add(step, f"nothing kept: {step}%")) for step in (1, 7)]
    ['nothing kept: 1%', 'nothing kept: 7% (2 times, last at step 7)']
    """

    def __init__(self) -> None:
        self._kinds: dict[str, Said] = {}

    def __iter__(self) -> Iterator[Said]:
        return iter(list(self._kinds.values()))

    def add(self, step: int, text: str) -> Said:
        """Count a note of a step."""
        one = self._kinds.setdefault(kind(text), Said(text))
        one.text, one.times, one.last = text, one.times + 1, step
        return one


class NoteLines:
    """Notes as lines on a console. One that comes again is counted, and said again when its count has doubled."""

    def __init__(self, console: Console) -> None:
        self.console, self.notes = console, Notes()

    def due(self, step: int, notes: Sequence[Note]) -> list[tuple[Said, bool]]:
        """Count the notes of a step; those that are to be said, and whether they are urgent."""
        counted = [(self.notes.add(step, note.text), note.urgent) for note in notes]
        return [(one, urgent) for one, urgent in counted if one.times >= 2 * one.shown]

    def say(self, one: Said, start: str = "") -> None:
        """Say a note."""
        one.shown = one.times
        self.console.print(wrapped(f"{start}{one}"), style="yellow", markup=False, highlight=False)

    def close(self) -> None:
        """Say how often the notes came whose count was not said yet."""
        for one in self.notes:
            if one.shown < one.times:
                self.say(one)


def wrapped(text: str, indent: str = "") -> str:
    """Text in lines of at most 80 columns, printable; a word that is longer, such as a path, stays whole.

    >>> print(wrapped("alarm " * 14, "  "))
      alarm alarm alarm alarm alarm alarm alarm alarm alarm alarm alarm alarm alarm
        alarm
    """
    return textwrap.fill(
        printable(text),
        WIDTH,
        initial_indent=indent,
        subsequent_indent=f"{indent}  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
