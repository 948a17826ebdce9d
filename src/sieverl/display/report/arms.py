"""Runs as curves: those that differ only in their seed are one arm, with its mean and 95% interval over the seeds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile

from sieverl.display.axes import real
from sieverl.display.charts import Series
from sieverl.evaluation.statistics import over_seeds
from sieverl.run_dir.saved import SavedRun
from sieverl.types import JsonObject, Metrics

SEED_KEYS = ("seed", "run_dir")  # of a recipe; runs that differ in nothing else are one arm
KEEP = 0.85  # weight of the old value in a running mean
Points = dict[int, float]  # step -> value


@dataclass(frozen=True)
class Arm:
    """Runs that differ only in their seed, at least one."""

    label: str
    runs: Sequence[SavedRun]

    def series(self, metric: str, label: str = "", smooth: bool = False) -> Series:
        """A metric over the steps, or its running mean; of several runs the mean with its interval over them."""
        found = [points_of(run, metric) for run in self.runs]
        found = [running_mean(points) for points in found] if smooth else found
        values = {step: [points[step] for points in found if step in points] for step in sorted(set().union(*found))}
        whole = {step: over_seeds(values.get(step, [])) for step in with_gaps(sorted({*self.steps(), *values}))}
        notes = [f"{len(values[s])} of {len(found)} runs" if len(found) > 1 and s in values else "" for s in whole]
        mean, low, high = zip(*whole.values(), strict=True) if whole else ((), (), ())
        return Series(label or self.label, list(whole), mean, low, high, notes=notes)

    def steps(self) -> set[int]:
        """The steps that have a row with more than an evaluation."""
        return {int(row["step"]) for run in self.runs for row in run.rows if "time/step" in row or "reward/mean" in row}


def with_gaps(steps: Sequence[int]) -> list[int]:
    """The steps, and one in each place where some are missing, so that a line is interrupted there.

    >>> with_gaps([1, 2, 7])
    [1, 2, 3, 7]
    """
    holes = {before + 1 for before, after in pairwise(steps) if after > before + 1}
    return sorted({*steps, *holes})


def value_of(row: Metrics, metric: str) -> float | None:
    """A metric of a row; None where it is missing, or no number that can be drawn.

    >>> value_of({"a": 10**400, "b": 1}, "a"), value_of({"a": 1}, "b"), value_of({"a": 1}, "a")
    (None, None, 1.0)
    """
    try:
        return real(None if row.get(metric) is None else float(row[metric]))
    except OverflowError:
        return None


def points_of(run: SavedRun, metric: str) -> Points:
    """The steps that have a metric, with its value there."""
    found = {int(row["step"]): value_of(row, metric) for row in run.rows}
    return {step: value for step, value in found.items() if value is not None}


def running_mean(points: Points) -> Points:
    """The exponential running mean, started at the first value.

    >>> running_mean({1: 1.0, 2: 0.0})
    {1: 1.0, 2: 0.85}
    """
    mean: float | None = None
    out: Points = {}
    for step, value in points.items():
        mean = value if mean is None else KEEP * mean + (1 - KEEP) * value
        out[step] = mean
    return out


# --- recipes ----------------------------------------------------------------------------------------


def arms_of(runs: Sequence[SavedRun]) -> list[Arm]:
    """The runs, those that differ only in their seed together, in the order of their first runs."""
    found: dict[object, list[SavedRun]] = {}
    for place, run in enumerate(runs):
        settings = {key: value for key, value in flat(run.recipe).items() if key not in SEED_KEYS}
        found.setdefault(json.dumps(settings, sort_keys=True) if settings else place, []).append(run)
    arms: list[Arm] = []
    for group in found.values():
        label = labels(group)
        again = sum(arm.label == label for arm in arms)
        arms.append(Arm(f"{label} ({again + 1})" if again else label, group))
    return arms


def labels(runs: Sequence[SavedRun]) -> str:
    """The name of a run, or what the names of several have in common and their number."""
    if len(runs) == 1:
        return runs[0].name
    letters = zip(*(run.name for run in runs), strict=False)
    same = sum(1 for _ in takewhile(lambda some: len(set(some)) == 1, letters))
    return f"{runs[0].name[:same].rstrip('-_. 0123456789') or runs[0].name}, {len(runs)} seeds"


def flat(recipe: JsonObject, before: str = "") -> dict[str, str]:
    """The dotted keys of a recipe, with their values as text.

    >>> flat({"steps": 3, "train": {"lr": 0.1, "betas": [0.9, 0.95]}})
    {'steps': '3', 'train.lr': '0.1', 'train.betas': '[0.9, 0.95]'}
    """
    out: dict[str, str] = {}
    for key, value in recipe.items():
        if isinstance(value, Mapping) and value:
            out |= flat(dict(value), f"{before}{key}.")
        else:
            out[f"{before}{key}"] = value if isinstance(value, str) else json.dumps(value, default=str)
    return out


def differing(runs: Sequence[SavedRun]) -> list[tuple[str, list[str]]]:
    """The keys in which the recipes differ, with the value of each run; empty where a recipe has none."""
    flats = [flat(run.recipe) for run in runs]
    keys = dict.fromkeys(key for one in flats for key in one if key != "run_dir")
    found = [(key, [one.get(key, "") for one in flats]) for key in keys]
    return [(key, values) for key, values in found if len(set(values)) > 1]
