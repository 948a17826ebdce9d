"""From the lines in `bench/results.jsonl` to the table and the chart in `docs/`: the newest line of each counts."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

from bench.peers.venv import ROOT

Row = dict[str, Any]
RESULTS = ROOT / "bench/results.jsonl"
PAGE = ROOT / "docs/benchmarks.md"
CHART = ROOT / "docs/benchmarks.png"
NOTES = ROOT / "bench/notes.md"  # written by hand
# What each measures, in the words of the page; the order of the page.
ABOUT = {
    "rl_step": "One RL step (rollout, reward, credit, one optimiser step) against TRL's GRPOTrainer: same model, "
    "prompts, samples, lengths, reward and GRPO loss. Dtype and micro-batch size of both, and TRL's engine, are swept "
    "first (on long-tail only continuous batching, since `generate` takes over six minutes for one rollout). "
    "*Everything kept*: both compute every response. *With selection*: SieveRL drops responses without a signal.",
    "rollout": "Tokens per second of the built-in engine, without rewards. *GEMM lower bound*: the matrix products of "
    "the same responses and nothing else. On long-tail transformers' `generate` is left out (six minutes a rollout).",
    "learner": "One update (forward, backward, optimiser) that keeps everything; the other side is the GEMM lower "
    "bound, the matrix products alone of the same tokens (each prompt once) in the same dtype. The ratio is the share "
    "of its speed that is reached.",
    "memory": "Peak memory of an update beyond weights, gradients and optimiser state, in a separate process: the "
    "largest size against the smallest. A ratio of 1 means no growth.",
    "selection": "An update on a part of the responses against an update on all of them; and dropping against masking, "
    "which computes all responses and gives the rejected ones weight zero.",
    "time_to_accuracy": "Seconds of training until avg@4 on held-out problems has risen by 15 points, from the shipped "
    "model, with GRPO and the same settings. Evaluation and loading are not counted.",
    "scale": "Two processes of one thread each (gloo) against one process of two threads, and against TRL on two "
    "processes: RL steps that keep every response. *100M*: memory of a rank in an update of a model of 100M "
    "parameters, each block computed again in the backward, above what the process had before the model.",
    "ahead": "Seconds of a step with `rollout.staleness = 1` against 0 on the demo: one process samples and one "
    "learns, a thread each, at once or in turns. The passes over a batch are chosen so that both halves take about as "
    "long.",
    "log": "Seconds that writing the responses of a step takes, against the step of the demo, on one thread; and how "
    "many bytes a token takes in the file.",
    "checkpoint": "Seconds that a save holds up a run of the demo, written in the background against in the "
    "foreground, on one thread; and what share of ten steps that is. Whole runs differ by more than that from one to "
    "the next.",
    "startup": "Wall-clock time of a new process.",
}
HEAD = "| What | SieveRL | Peer | Ratio | Unit |\n|-|-:|-:|-:|-|\n"


def append(rows: list[Row], path: Path = RESULTS) -> None:
    """Add lines to the results."""
    with path.open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def newest(path: Path = RESULTS) -> list[Row]:
    """The last line of each benchmark and workload, in the order of the page."""
    rows = [json.loads(text) for text in path.read_text().splitlines()] if path.exists() else []
    last = {(row["bench"], row["workload"]): row for row in rows}
    return sorted(last.values(), key=lambda row: list(ABOUT).index(row["bench"]))


def page(rows: list[Row]) -> str:
    """The page in Markdown."""
    out = [
        "# Benchmarks\n",
        "A ratio above 1 means that SieveRL is better, except where the peer is a bound (GEMM lower bound, no "
        "growth). The sides of a comparison take turns on the idle machine; the first turn is dropped; the numbers are "
        "medians.\n",
        "![ratios](benchmarks.png)\n",
        "`make bench` runs all of it (one to two hours), `python -m bench NAME --workload W` one part (one JSON line; "
        "`--repeats N`). Every value behind a median is in `bench/results.jsonl`, the workloads are in "
        "`bench/workloads.py`, and the set-up of TRL, transformers and vLLM is in `bench/peers/README.md`.\n",
    ]
    for bench, about in ABOUT.items():
        found = [row for row in rows if row["bench"] == bench]
        if not found:
            continue
        out.append(f"## {bench}\n\n{about}\n")
        for row in found:
            body = "".join(_row(part) for part in (row, *row["also"]))
            out.append(f"**{row['workload']}** ({row['date']})\n\n{HEAD}{body}")
            out += [f"{name}: {plain(row[name])}.\n" for name in ("settings", "padding_waste") if name in row]
    out += [NOTES.read_text(), "## Where\n"]
    places = {f"{row['machine']['cpu']}, {row['machine']['cores']} cores; {plain(row['versions'])}" for row in rows}
    out.append("\n".join(f"- {place}" for place in sorted(places)) + "\n")
    return "\n".join("\n".join(wrapped(line)) for line in "\n".join(out).split("\n"))


def wrapped(line: str) -> list[str]:
    """A line of prose in lines of at most 120 columns; tables stay as they are."""
    indent = "  " if line.startswith("- ") else ""
    wide = textwrap.TextWrapper(120, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return [line] if len(line) <= 120 or line.startswith("|") else wide.wrap(line)


def _row(part: Row) -> str:
    return f"| {part['what']} | {part['ours']:.4g} | {part['peer']:.4g} | {part['ratio']:.2f} | {part['unit']} |\n"


def plain(value: Any) -> str:
    """A nested table as words: a 1, b (c 2).

    >>> plain({"ours": {"dtype": "float32"}, "waste": 0.25})
    'ours (dtype float32), waste 0.25'
    """
    if isinstance(value, dict):
        parts = [
            f"{key} ({plain(v)})" if isinstance(v, dict | list) else f"{key} {plain(v)}" for key, v in value.items()
        ]
        return ", ".join(parts)
    if isinstance(value, list):
        return " ".join(map(plain, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def draw(rows: list[Row], path: Path = CHART) -> None:
    """One bar for each main comparison: the ratio, on a logarithmic axis."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 0.4 * len(rows) + 1.2), layout="constrained")
    names = [f"{row['bench']}, {row['workload']}" for row in rows]
    ratios = [row["ratio"] for row in rows]
    bars = axes.barh(names[::-1], ratios[::-1], color=["#3b6fb6" if r >= 1 else "#b9c6d8" for r in ratios[::-1]])
    axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xticks([0.5, 1, 2, 5, 10], ["0.5", "1", "2", "5", "10"])
    axes.minorticks_off()
    axes.margins(x=0.15)
    axes.set_xlabel("ratio to the peer, logarithmic (learner: to the GEMM lower bound; memory: 1 is no growth)")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def write(results: Path = RESULTS, to: Path = PAGE, chart: Path = CHART) -> None:
    """Page and chart from all results so far."""
    rows = newest(results)
    to.write_text(page(rows))
    draw(rows, chart)
