"""Between the ranks of a run on Ray and the terminal that started it: what they tell it, and what it asks of them.

An actor of Ray holds the `Board`; ranks and terminal hold its handle.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sieverl.errors import SieveRLError
from sieverl.launch.work import Outcome, Start, Watcher
from sieverl.types import Metrics, Note

End = Outcome | SieveRLError
Message = tuple[str, tuple[Any, ...]]  # a method of `Watcher` and its arguments


@dataclass(frozen=True)
class Attempt:
    """What a rank must know before it starts: how many starts there were, whether one got as far as the run directory,
    and how the run ended, if it did."""

    number: int
    opened: bool
    end: End | None


class Board:
    """Messages in order, the signal that the terminal received, and how the run ended.

    >>> board = Board()
    >>> board.tell("say", ("hello",)), board.take(0)
    (0, [('say', ('hello',))])
    >>> board.stop(15), board.tell("say", ("well",)), board.take(1)
    (None, 15, [('say', ('well',))])
    """

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.signal = 0
        self.attempts = 0
        self.opened = False
        self.ended: End | None = None

    def attempt(self, rank: int) -> Attempt:
        """Asked by each rank at its start."""
        self.attempts += rank == 0
        return Attempt(max(1, self.attempts), self.opened, self.ended)

    def tell(self, method: str, arguments: tuple[Any, ...]) -> int:
        """A message to the terminal; returns the signal that asks the run to stop, or 0."""
        self.opened |= method == "started"
        self.messages.append((method, arguments))
        return self.signal

    def take(self, after: int) -> list[Message]:
        """The messages from number `after` on."""
        return self.messages[after:]

    def stop(self, number: int) -> None:
        """The terminal received a signal."""
        self.signal = number

    def end(self, end: End) -> None:
        """The run has ended: done, stopped, or an error that another attempt would meet again. The first one counts."""
        self.ended = self.ended or end

    def ending(self) -> End | None:
        """How the run ended, or None."""
        return self.ended


class Speaker:
    """The watcher of rank 0: tells the board, and takes the request to stop from its answers."""

    def __init__(self, ray: Any, board: Any) -> None:
        self._ray, self._board = ray, board
        self._requested: list[int] = []

    def say(self, text: str) -> None:
        self._tell("say", text)

    def started(self, start: Start) -> None:
        self._tell("started", start)

    def row(self, row: Metrics, notes: Sequence[Note]) -> None:
        self._tell("row", row, notes)

    @contextmanager
    def stopping(self) -> Iterator[list[int]]:
        """The signals that the terminal received so far."""
        yield self._requested

    def _tell(self, method: str, *arguments: object) -> None:
        signal = self._ray.get(self._board.tell.remote(method, arguments))
        if signal and not self._requested:
            self._requested.append(signal)


class Silent:
    """The watcher of the other ranks."""

    def say(self, text: str) -> None:
        pass

    def started(self, start: Start) -> None:
        pass

    def row(self, row: Metrics, notes: Sequence[Note]) -> None:
        pass

    @contextmanager
    def stopping(self) -> Iterator[list[int]]:
        """None: rank 0 asks for all."""
        yield []


def play(messages: Sequence[Message], watcher: Watcher) -> None:
    """Pass messages on to a watcher."""
    for method, arguments in messages:
        getattr(watcher, method)(*arguments)
