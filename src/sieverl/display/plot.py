"""The learning curve of a run as a picture, from its metrics.jsonl."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sieverl.run_dir.metrics import MetricsLog
from sieverl.types import Metrics

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLE: Any = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}
SIZE = (7.2, 4.0)  # inches


def curve(run_dir: Path) -> Path:
    """Write `curve.png`, the learning curve, and return where it is."""
    learning_curve(MetricsLog(run_dir / "metrics.jsonl").rows()).savefig(run_dir / "curve.png", dpi=130)
    return run_dir / "curve.png"


def draw(series: Mapping[str, tuple[Sequence[int], Sequence[float]]]) -> Figure:
    """A chart of metrics: name -> steps and values."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.subplots()
        for name, (steps, values) in series.items():
            axes.plot(steps, values, linewidth=1.6, marker="o" if len(steps) < 30 else None, markersize=3, label=name)
        axes.set(xlabel="step")
        axes.grid(alpha=0.25)
        axes.legend(frameon=False, fontsize=9, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return figure


def learning_curve(rows: Sequence[Metrics]) -> Figure:
    """Accuracy on sampled and held-out prompts, kept fraction, the mean reward where it differs."""
    import matplotlib as mpl
    import numpy as np
    from matplotlib.figure import Figure

    steps = [r for r in rows if "reward/accuracy" in r]
    held = [(r, k) for r in rows for k, v in r.items() if k.startswith("eval/") and "/avg@" in k and v is not None]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.subplots()
        limits = 0.0, 1.0
        if steps:
            x = np.array([r["step"] for r in steps])
            accuracy = np.array(column(steps, "reward/accuracy"))
            axes.plot(x, accuracy, color="#9bbbe0", linewidth=0.9, label="training accuracy, each step")
            axes.plot(x, smooth(accuracy), color="#2a6ebb", linewidth=2.0, label="training accuracy, running mean")
            reward = np.array(column(steps, "reward/mean"))
            if np.abs(reward - accuracy).max() > 1e-9:
                limits = min(0.0, *reward), max(1.0, *reward)
                axes.plot(x, smooth(reward), color="#4c9a6a", linewidth=2.0, label="mean reward, running mean")
            axes.plot(
                x,
                smooth(column(steps, "select/kept_fraction")),
                color="#c98a1b",
                linewidth=1.4,
                linestyle="--",
                label="kept fraction",
            )
        for key in dict.fromkeys(k for _, k in held):
            points = [r for r, k in held if k == key]
            ci = key.replace("eval/", "eval_ci/")
            at, values = [r["step"] for r in points], np.array(column(points, key))
            low, high = (np.array(column(points, f"{ci}/{end}")) for end in ("low", "high"))
            error = np.maximum(0.0, [values - low, high - values])
            label = f"{key.split('/', 1)[1]}, 95% interval"
            axes.errorbar(at, values, yerr=error, fmt="o", color="#b3362b", capsize=3, label=label)
        axes.set(xlabel="step", ylabel="fraction", ylim=limits)
        axes.grid(alpha=0.25)
        if axes.get_legend_handles_labels()[1]:
            axes.legend(frameon=False, fontsize=9, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return figure


def column(rows: Iterable[Metrics], key: str) -> list[float]:
    """A metric of each row; NaN where a row has none.

    >>> column([{"step": 1, "a": 1}, {"step": 2, "a": None}, {"step": 3}], "a")
    [1.0, nan, nan]
    """
    return [math.nan if (value := row.get(key)) is None else float(value) for row in rows]


def smooth(values: Iterable[float], keep: float = 0.85) -> list[float]:
    """Exponential running mean, started at the first value.

    >>> smooth([1.0, 0.0], keep=0.5)
    [1.0, 0.5]
    """
    out: list[float] = []
    for value in values:
        out.append(float(value) if not out else keep * out[-1] + (1 - keep) * float(value))
    return out
