"""Parts of a long command's work, kept beside its output until that is whole, so that the same command goes on.

A part is found by a digest of all that decides it, so one of other settings or of another input is never taken for it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from sieverl.errors import first_line
from sieverl.files import remove, write_text

T = TypeVar("T")


@dataclass(frozen=True)
class Parts:
    """The parts of one output, in the folder `<output>.parts`; `keys` are the digests of all of them, in order.

    A damaged part is named to `say`, and counts as missing. Where a part cannot be written the work goes on.
    """

    folder: Path
    keys: Sequence[str]
    say: Callable[[str], None]

    @staticmethod
    def of(output: Path, keys: Sequence[str], say: Callable[[str], None]) -> Parts:
        """Those of the output file `output`."""
        return Parts(output.with_name(f"{output.name}.parts"), keys, say)

    def file(self, number: int) -> Path:
        """Where a part is, or will be."""
        return self.folder / f"part-{number:06d}-{self.keys[number][:16]}.json"

    def kept(self) -> list[int]:
        """The numbers of the parts that are there, damaged ones included."""
        return [number for number in range(len(self.keys)) if self.file(number).is_file()]

    def others(self) -> int:
        """How many parts in the folder are not of these: of other settings, or of another input."""
        own = {self.file(number).name for number in range(len(self.keys))}
        return sum(path.name not in own for path in self.folder.glob("part-*.json"))

    def read(self, number: int, parse: Callable[[Any], T]) -> T | None:
        """What `parse` makes of a part; None if it is missing or damaged."""
        path = self.file(number)
        try:
            digest, body = path.read_text(encoding="utf-8").split("\n", 1)
            if digest != hashlib.sha256(body.encode()).hexdigest():
                raise ValueError("its content has changed")
            return parse(json.loads(body))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
            self.say(f"{path} is damaged ({first_line(error)}); this part is done again")
            return None

    def write(self, number: int, value: object) -> None:
        """Keep a part, whole or not at all, also when the power fails."""
        body = json.dumps(value)
        try:
            write_text(self.file(number), f"{hashlib.sha256(body.encode()).hexdigest()}\n{body}")
        except OSError as error:
            self.say(
                f"cannot keep {self.file(number)}: {first_line(error)}; going on, but if killed this is done again"
            )

    def report(self) -> None:
        """Say what an earlier command has left, if anything."""
        kept, others = len(self.kept()), self.others()
        if kept:
            self.say(f"going on from {kept} of {len(self.keys)} parts in {self.folder}")
        if others:
            self.say(
                f"{others} parts in {self.folder} are of other settings or another input; they stay, and are not used"
            )

    def remove(self) -> None:
        """Remove these parts, and the folder with them unless it has others."""
        try:
            for path in [*(self.file(number) for number in self.kept()), *self.folder.glob(".part-*.tmp")]:
                remove(path)
            if self.folder.is_dir() and not any(self.folder.iterdir()):
                remove(self.folder)
        except OSError as error:
            self.say(f"cannot remove {self.folder}: {first_line(error)}; it is not needed any more")


def digest_of(*values: object) -> str:
    """SHA-256 of values as JSON, the same in every process.

    >>> digest_of({"b": {2, 1}, "a": 0}) == digest_of({"a": 0, "b": [1, 2]})
    True
    """
    text = json.dumps(values, sort_keys=True, default=_plain, skipkeys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: Any) -> object:
    if isinstance(value, set | frozenset):
        return sorted(value)
    return value.tolist() if hasattr(value, "tolist") else str(value)
