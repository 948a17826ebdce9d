"""From the lines in `bench/results-gpu.jsonl` to `docs/benchmarks-gpu.md`: GPUs first, then the CPU at toy size.

The newest line of each counts, on each device for itself: what a CPU gives never takes the place of what a GPU gave.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from bench import report
from bench.compare import Row
from bench.peers.venv import ROOT
from bench.report import plain, wrapped

RESULTS = ROOT / "bench/results-gpu.jsonl"
PAGE = ROOT / "docs/benchmarks-gpu.md"
KEYS = ("device", "place", "kind", "configuration", "engine", "lora_rank", "side")  # what a line is about
LEFT_OUT = "left out (reason below)"

INTRO = """# Benchmarks on a GPU

`make bench-gpu` writes this page: it runs the GPU tests and measures SieveRL with the sizes of Qwen2.5's 0.5B, 1.5B and
7B configurations and random weights, whose responses have 200 tokens on average and 512 at most (64 prompts x 8). On
a machine without a GPU it runs the same on the CPU at toy size. `python -m bench.gpu --help` has its options, every
value is in `bench/results-gpu.jsonl`, the sizes are in `bench/workloads.py`.
"""
NOT_YET = """## GPU

**No GPU has been measured yet.** On a machine with an NVIDIA GPU `make bench-gpu` fills this section. It installs vLLM
and TRL into environments of their own below `.bench`; what cannot be installed or does not fit is left out with its
reason.
"""
TOY = """This is a CPU and a model of two layers: it shows that the command runs, and measures nothing. A GPU's numbers
are kept apart from these.
"""
ABOUT = {
    "rollout": "Tokens per second of SieveRL's engines, each in a process of its own; one that sleeps beside the "
    "learner wakes within the time.",
    "learner": "An update (forward, backward, optimiser) of every response and of 25% of them. FLOP/s are model "
    "FLOPs: 6 x weights x tokens (4 for weights that LoRA leaves as they are) and attention under the causal mask, "
    "each prompt once for all of its responses, nothing twice. Utilisation is their share of the quickest product of "
    "two square matrices, in the same dtype on the same device. Memory is the most that PyTorch had allocated (on a "
    "CPU: resident).",
    "rl_step": "Rollout, reward, credit, and one optimiser step with the GRPO loss on every response; and SieveRL with "
    "reinforce_rej, which drops responses. The micro-batch size of each side is the quickest of those tried. Sides run "
    "one after the other. Memory is all that is in use on the device (on a CPU: resident).",
}


def append(rows: Sequence[Row], path: Path = RESULTS) -> None:
    """Add lines to the results."""
    report.append(list(rows), path)


def newest(path: Path = RESULTS) -> list[Row]:
    """The last line about each thing, in the order in which things were first measured."""
    rows = [json.loads(text) for text in path.read_text().splitlines()] if path.exists() else []
    last: dict[tuple[str, ...], Row] = {}
    for row in rows:
        last[tuple(str(row.get(key)) for key in KEYS)] = row
    return list(last.values())


def write(results: Path = RESULTS, to: Path = PAGE) -> None:
    """The page from all results so far."""
    to.write_text(page(newest(results)))


def page(rows: Sequence[Row]) -> str:
    """The page in Markdown."""
    gpus = list(dict.fromkeys(row["place"] for row in rows if row["device"] == "cuda"))
    out = [INTRO] + ([] if gpus else [NOT_YET])
    out += [part for gpu in gpus for part in section(gpu, [row for row in rows if row["place"] == gpu])]
    toy = [row for row in rows if row["device"] == "cpu"]
    out += section("CPU, toy size", toy, TOY) if toy else []
    return "\n".join("\n".join(wrapped(line)) for line in "\n".join(out).split("\n"))


def section(title: str, rows: Sequence[Row], about: str = "") -> list[str]:
    """What was found in one place."""
    out = [f"## {title}\n", *([about] if about else [])]
    out += [tests(row) for row in rows if row["kind"] == "tests"]
    for kind, (head, line) in TABLES.items():
        found = [row for row in rows if row["kind"] == kind]
        if found:
            body = "\n".join(f"| {' | '.join(line(row, found))} |" for row in found)
            ruler = "|".join("-:" if i > 1 else "-" for i in range(head.count("|") - 1))
            out.append(f"### {title}: {kind.replace('_', ' ')}\n\n{ABOUT[kind]}\n\n{head}\n|{ruler}|\n{body}\n")
            out += [f"- {subject(row)}: {row['left_out']}." for row in found if "left_out" in row]
            out += [""] if any("left_out" in row for row in found) else []
    machine = rows[-1]["machine"]
    versions = plain(rows[-1]["versions"])
    return [*out, f"{rows[-1]['date']}; {machine['cpu']}, {machine['cores']} cores; {versions}.\n"]


def tests(row: Row) -> str:
    """The GPU tests in a sentence."""
    if "left_out" in row:
        return f"GPU tests: {row['left_out']}.\n"
    broken = row["failures"] + row["errors"]
    return f"GPU tests (`pytest -m gpu`): {row['passed']} passed, {broken} failed, {row['skipped']} skipped.\n"


def subject(row: Row) -> str:
    """What a row is about, in words."""
    side = row.get("engine") or row.get("side") or ""
    return ", ".join(part for part in (row["configuration"], trained(row) if "lora_rank" in row else "", side) if part)


def trained(row: Row) -> str:
    """Which weights are trained."""
    return f"LoRA {row['lora_rank']}" if row["lora_rank"] else "all weights"


def rollout(row: Row, found: Sequence[Row]) -> list[str]:
    """One engine."""
    start = [row["configuration"], row["engine"]]
    if "left_out" in row:
        return [*start, LEFT_OUT, "", ""]
    return [*start, f"{row['tokens_per_second']:.4g}", f"{row['mean_length']:.1f}", f"{row['peak_mb']:.0f}"]


def learner(row: Row, found: Sequence[Row]) -> list[str]:
    """One update, in full and in part."""
    start = [row["configuration"], f"{trained(row)}, {row['dtype']}"]
    if "left_out" in row:
        return [*start, LEFT_OUT, *[""] * 6]
    whole, part = row["everything"], row["part"]
    return [
        *start,
        f"{whole['seconds']:.4g}",
        f"{whole['tflops']:.3g}",
        f"{row['peak_tflops']:.3g}",
        f"{whole['utilisation']:.0%}",
        f"{part['seconds']:.4g}",
        f"{part['utilisation']:.0%}",
        f"{row['peak_mb']:.0f}",
    ]


def rl_step(row: Row, found: Sequence[Row]) -> list[str]:
    """One side of an RL step, and TRL's seconds over its own."""
    start = [row["configuration"], f"{trained(row)}, {row['side']}"]
    if "left_out" in row:
        return [*start, LEFT_OUT, *[""] * 6]
    same = [r for r in found if all(r[key] == row[key] for key in ("configuration", "lora_rank")) and "seconds" in r]
    gpu = row["device"] == "cuda"  # a toy's ratio means nothing
    peer = next((r["seconds"] for r in same if gpu and r["side"].startswith("TRL")), None)
    selected = row.get("selected")
    return [
        *start,
        f"{row['seconds']:.4g}",
        f"{row['rollout_seconds']:.4g}",
        f"{peer / row['seconds']:.2f}" if peer else "",
        f"{selected['seconds']:.4g} ({selected['kept']:.0%} kept)" if selected else "",
        row["setting"],
        f"{row['mean_length']:.1f}",
        f"{row['peak_mb']:.0f}",
    ]


TABLES: dict[str, tuple[str, Callable[[Row, Sequence[Row]], list[str]]]] = {
    "rollout": ("| Configuration | Engine | Tokens/s | Mean length | Peak memory, MB |", rollout),
    "learner": (
        "| Configuration | Trained | Update, s | TFLOP/s | Peak of products | Utilisation "
        "| 25% kept, s | Its utilisation | Memory, MB |",
        learner,
    ),
    "rl_step": (
        "| Configuration | Side | Step, s | of it rollout | TRL / this | With selection, s | Micro-batch | Mean length "
        "| Peak memory, MB |",
        rl_step,
    ),
}
