"""From a run directory to the entries of trackers: metrics, histograms of the responses, some of their groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from sieverl.recipe.tables import Trackers
from sieverl.run_dir.saved import SavedRun
from sieverl.trackers.tracker import Entry
from sieverl.types import JsonObject, Metrics

if TYPE_CHECKING:
    import pyarrow

NUMBERS = ("reward", "length", "advantage")  # columns that have a histogram
COLUMNS = ("group", "sample", "prompt", "answer", "response", "reward", "advantage", "status", "kept", "length")
LONGEST = 4000  # characters of a text in the table


def entry_of(run: SavedRun, row: Metrics, settings: Trackers) -> Entry:
    """The entry of a row of metrics; a step whose responses cannot be read has its metrics alone."""
    step = int(row["step"])
    metrics = {name: float(value) for name, value in row.items() if name != "step" and value is not None}
    every = settings.groups_every
    due = every and step and (step == 1 or step % every == 0)
    table = run.responses(step, COLUMNS) if due else None
    if table is None:
        return Entry(step, metrics)
    values = {f"responses/{name}": table[name].drop_null().to_numpy().astype(np.float64) for name in NUMBERS}
    finite = {name: found[np.isfinite(found)] for name, found in values.items()}
    return Entry(step, metrics, {name: found for name, found in finite.items() if len(found)}, groups(table, settings))


def groups(table: pyarrow.Table, settings: Trackers) -> list[JsonObject]:
    """The responses of a few groups, a row each, with their texts cut to a length that a page can show."""
    import pyarrow.compute as pc

    picked = evenly(sorted(set(table["group"].to_pylist())), settings.groups)
    rows = table.filter(pc.field("group").isin(picked)).to_pylist()
    return [{name: shortened(value) for name, value in row.items()} for row in rows]


def evenly(found: Sequence[int], count: int) -> list[int]:
    """Up to `count` of what was found, evenly spread.

    >>> evenly([0, 1, 2, 3, 4, 5], 3), evenly([7], 3)
    ([0, 2, 4], [7])
    """
    count = min(count, len(found))
    return [found[i * len(found) // count] for i in range(count)]


def shortened(value: object) -> object:
    """A text that is too long without its middle; anything else as it is.

    >>> len(shortened("x" * 9999)), shortened(0.5)
    (4005, 0.5)
    """
    if not isinstance(value, str) or len(value) <= LONGEST:
        return value
    half = LONGEST // 2
    return f"{value[:half]} ... {value[-half:]}"
