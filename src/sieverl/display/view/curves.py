"""The curves of a run, and the run in one line."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from sieverl.display.charts import Series, bar_chart, line_chart, sparkline
from sieverl.run_dir.saved import SavedRun

if TYPE_CHECKING:
    import pyarrow

BINS = 12  # of the distribution of rewards


@dataclass(frozen=True)
class Chart:
    """A picture and what it shows in a sentence."""

    svg: Markup
    about: str


@dataclass(frozen=True)
class Short:
    """A run in one line."""

    name: str
    algorithm: str
    step: int
    steps: int | None
    sparkline: Markup
    before: float | None
    after: float | None
    kept: float | None
    changed: str


def in_short(run: SavedRun) -> Short:
    """A run in one line of the list."""
    held = run.series(run.heldout)[1] if run.heldout else []
    kept = run.series("select/kept_fraction")[1]
    return Short(
        name=run.name,
        algorithm=str(run.setting("algorithm", "unknown")),
        step=run.step,
        steps=run.steps,
        sparkline=sparkline(run.series("reward/accuracy")[1], "training accuracy"),
        before=held[0] if held else None,
        after=held[-1] if len(held) > 1 else None,
        kept=float(np.mean(kept)) if kept else None,
        changed=ago(time.time() - changed(run)),
    )


def changed(run: SavedRun) -> float:
    """When the run last wrote, as a Unix time; 0 where nothing tells."""
    times = []
    for name in ("metrics.jsonl", "recipe.toml"):
        try:
            times.append((run.path / name).stat().st_mtime)
        except OSError:
            continue
    return max(times, default=0.0)


def ago(seconds: float) -> str:
    """How long ago, in words.

    >>> ago(5), ago(200), ago(7500), ago(200_000)
    ('just now', '3 min ago', '2 h ago', '2 days ago')
    """
    if seconds < 60:
        return "just now"
    for size, unit, most in ((60, "min", 3600), (3600, "h", 2 * 86400)):
        if seconds < most:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds / 86400:.0f} days ago"


CURVES: Sequence[tuple[str, str, Mapping[str, str], bool]] = (  # title, sentence, metric -> label, whether a share
    ("accuracy", "The share of right responses to the prompts of each step, and to the held-out prompts.",
     {"reward/accuracy": "training"}, True),
    ("reward", "The mean reward; it is the accuracy unless rewards are graded.", {"reward/mean": "mean"}, False),
    ("selection", "What is trained on, and prompts that cannot teach: all responses wrong, or all right.",
     {"select/kept_fraction": "kept", "select/all_wrong": "all wrong", "select/all_correct": "all right"}, True),
    ("entropy", "A steep fall: the model stops trying other ways.", {"policy/entropy": "nats a token"}, False),
    ("drift", "How far the model has moved from where it started.", {}, False),
    ("length", "Tokens of a response. Growth to the limit, or a collapse, is worth a look.",
     {"rollout/length_mean": "mean", "rollout/length_max": "longest"}, False),
    ("cut off and unread", "Responses cut off at the limit, and those without an answer.",
     {"rollout/truncated": "truncated", "verify/no_answer": "no answer"}, True),
    ("seconds a step", "Where the time goes.",
     {"time/rollout": "rollout and verification", "time/update": "update"}, False),
)  # fmt: skip


def charts(run: SavedRun) -> list[Chart]:
    """The curves that the run has numbers for."""
    found = []
    for title, about, metrics, share in CURVES:
        lines = [Series(label, *run.series(metric)) for metric, label in metrics.items()]
        lines += _held_out(run) if title == "accuracy" else _drift(run) if title == "drift" else []
        if any(line.x for line in lines):
            limits = (0.0, 1.0) if share else (None, None)
            found.append(Chart(line_chart(title, lines, "step", "", limits, percent=share), about))
    return found


def _held_out(run: SavedRun) -> list[Series]:
    if run.heldout is None:
        return []
    low, high = (run.series(f"eval_ci/{run.heldout.removeprefix('eval/')}/{end}")[1] for end in ("low", "high"))
    return [Series("held out, 95% interval", *run.series(run.heldout), low, high, "dots")]


def _drift(run: SavedRun) -> list[Series]:
    names = {name for row in run.rows for name in row if name.startswith("eval/") and name.endswith("/kl_ref")}
    return [Series("KL to the start, nats a token", *run.series(name), style="path") for name in sorted(names)]


def reward_distribution(table: pyarrow.Table) -> Markup:
    """How many responses got which reward."""
    rewards = np.array([x for x in table["reward"].to_pylist() if x is not None and np.isfinite(x)])
    values, counts = np.unique(rewards, return_counts=True)
    names = [f"{value:g}" for value in values]
    if len(values) > BINS:
        counts, edges = np.histogram(rewards, BINS)
        names = [f"{low:.3g} to {high:.3g}" for low, high in pairwise(edges)]
    return bar_chart("rewards", names, [Series("responses", [], counts.tolist())])


def settings(recipe: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """The keys of a recipe with dots, and their values.

    >>> settings({"steps": 3, "train": {"lr": 1e-4}})
    [('steps', '3'), ('train.lr', '0.0001')]
    """
    found: list[tuple[str, str]] = []
    for key, value in recipe.items():
        name = f"{prefix}{key}"
        found += settings(value, f"{name}.") if isinstance(value, dict) else [(name, str(value))]
    return found
