"""Errors with a message for people: what came, what is allowed, what to do.

Every class carries the exit code of the command. Anything that is not one of these is a defect of SieveRL and crashes.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from enum import IntEnum


class ExitCode(IntEnum):
    """What the command returns; `meaning` is its line in the documentation."""

    meaning: str

    def __new__(cls, value: int, meaning: str) -> ExitCode:
        code = int.__new__(cls, value)
        code._value_ = value
        code.meaning = meaning
        return code

    DONE = 0, "done"
    USAGE = 2, "a recipe, option or argument that cannot work"
    DATA = 3, "a model, dataset, row or answer that cannot be used"
    CHECKPOINT = 4, "no checkpoint that can be resumed"
    ALARM = 5, "the run stopped itself, because going on would waste it"
    ENGINE = 6, "the engine failed; the same command resumes from the last checkpoint"
    STORAGE = 74, "the disk is full or takes no writes; the same command resumes from the last checkpoint"
    PREEMPTED = 75, "stopped by SIGTERM and saved; the same command resumes"
    INTERRUPTED = 130, "interrupted; the same command resumes from the last checkpoint"


class SieveRLError(ValueError):
    """An error with a message for people. `exit_code` is what the command returns."""

    exit_code = ExitCode.USAGE


class UsageError(SieveRLError):
    """A recipe, option or argument that cannot work (exit code 2)."""


class DataError(SieveRLError):
    """A model, dataset, row or answer that cannot be used (exit code 3)."""

    exit_code = ExitCode.DATA


class CheckpointError(SieveRLError):
    """No checkpoint that can be resumed (exit code 4)."""

    exit_code = ExitCode.CHECKPOINT


class Alarm(SieveRLError):
    """The run stopped itself, because going on would waste it (exit code 5)."""

    exit_code = ExitCode.ALARM


class EngineError(SieveRLError):
    """The engine crashed, does not answer, or has other weights than it should (exit code 6)."""

    exit_code = ExitCode.ENGINE


class StorageError(SieveRLError):
    """The disk is full, or does not take what must be written (exit code 74)."""

    exit_code = ExitCode.STORAGE


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for a name that is not known, or an empty string.

    >>> nearest("reinforce_rek", ["raft", "reinforce_rej"])
    ' Did you mean reinforce_rej?'
    >>> nearest("xyz", ["raft"])
    ''
    """
    matches = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {matches[0]}?" if matches else ""


def first_line(error: BaseException, length: int = 200) -> str:
    """The first line of an error's message, or the name of its type if it has none.

    >>> first_line(ValueError("no such split\\nTraceback ...")), first_line(KeyError())
    ('no such split', 'KeyError')
    """
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:length]
