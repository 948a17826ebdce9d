"""What the user reads when something is wrong: what came, what is allowed, what to do.

Every class carries the exit code of the command. Anything that is not one of these is a defect of SieveRL and crashes.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SieveError(ValueError):
    """An error with a message for people. `exit_code` is what the command returns."""

    exit_code = 2


class UsageError(SieveError):
    """A recipe, option or argument that cannot work (exit code 2)."""


class DataError(SieveError):
    """A model, dataset, row or answer that cannot be used (exit code 3)."""

    exit_code = 3


class CheckpointError(SieveError):
    """No checkpoint that can be resumed (exit code 4)."""

    exit_code = 4


class Alarm(SieveError):
    """The run stopped itself, because going on would waste it (exit code 5)."""

    exit_code = 5


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for a name that is not known, or an empty string.

    >>> nearest("reinforce_rek", ["raft", "reinforce_rej"])
    ' Did you mean reinforce_rej?'
    >>> nearest("xyz", ["raft"])
    ''
    """
    matches = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {matches[0]}?" if matches else ""
