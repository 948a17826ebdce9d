"""What a tracker is: it takes the entries of a run, one a row of metrics, and is closed at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from sieverl.types import FloatArray, JsonObject


@dataclass(frozen=True)
class Entry:
    """One row of a run as trackers get it.

    `metrics` have the names of metrics.jsonl, without those that are null. In the steps of `trackers.groups_every`,
    `histograms` have values of the responses (such as `responses/reward`), and `groups` the responses of some groups, a
    row each; else both are empty.
    """

    step: int
    metrics: Mapping[str, float]
    histograms: Mapping[str, FloatArray] = field(default_factory=dict)
    groups: Sequence[JsonObject] = ()


@dataclass(frozen=True)
class Place:
    """Where a run goes in a tracker: `id` is the same each time that the run is started, `name` is for people.

    `first`: it has no entry there yet. `folder` is the run directory, `recipe` the resolved recipe.
    """

    project: str
    name: str
    id: str
    first: bool
    folder: Path
    recipe: JsonObject


class Tracker(Protocol):
    """Takes entries in the order of their steps. Whatever it raises is said once, and stops nothing."""

    where: str
    """Where the run is to be seen, such as an address; may be empty."""

    def log(self, entry: Entry) -> None:
        """Take an entry."""

    def close(self, ok: bool) -> None:
        """There are no more, since the run has ended as it should, or failed."""


def flat(table: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Nested tables with dotted keys.

    >>> flat({"steps": 3, "train": {"lr": 0.1}})
    {'steps': 3, 'train.lr': 0.1}
    """
    found: dict[str, object] = {}
    for key, value in table.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found
