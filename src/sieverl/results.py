"""Result files of `sieverl eval`: written, shown, and compared with the difference paired by prompt."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sieverl.benchmark import Record
from sieverl.doctor import version
from sieverl.errors import DataError, UsageError
from sieverl.evaluate import Interval, paired_interval, pass_at
from sieverl.files import write_text
from sieverl.types import Array, Prompt

Result = Mapping[str, Any]
PARTS = ("benchmark", "model", "sampling", "prompt", "verifier", "versions", "scores", "shares", "rows")
PACKAGES = ("sieverl", "torch", "transformers", "tokenizers", "math-verify", "reasoning-gym")
SHARES = {
    "truncated": "truncated at max_tokens",
    "no_answer": "no answer",
    "verifier_timeout": "verifier timeouts",
    "verifier_error": "verifier errors",
}


def row_of(prompt: Prompt, record: Record) -> dict[str, Any]:
    """What is kept of one prompt: which it was (place, hash of text and gold answer) and what became of its samples."""
    return {
        "id": prompt.id,
        "prompt": sha256(f"{prompt.text}\0{prompt.row.get('answer')}")[:16],
        "correct": sum(record.correct),
        "majority": record.majority,
        "lengths": record.lengths,
        "statuses": record.statuses,
        "answers": [answer and answer[:200] for answer in record.answers],
    }


def sha256(text: Any) -> str:
    """SHA-256 of a text (of anything else as JSON)."""
    return hashlib.sha256((text if isinstance(text, str) else json.dumps(text)).encode()).hexdigest()


def versions() -> dict[str, str | None]:
    """What is installed."""
    return {"python": platform.python_version(), **{package: version(package) for package in PACKAGES}}


def write(path: Path, result: Result) -> None:
    """A result as JSON, whole or not at all: settings and numbers first, then one line a prompt."""
    head = json.dumps({part: result[part] for part in PARTS if part != "rows"}, indent=2, default=str)
    rows = ",\n".join(f"    {json.dumps(row)}" for row in result["rows"])
    write_text(path, f'{head[:-2]},\n  "rows": [\n{rows}\n  ]\n}}\n')


def read(path: Path) -> Result:
    """A result file. Raises DataError for anything else."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"there is no result file {path}; `sieverl eval --output {path}` writes one") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON: {error}") from error
    if missing := [part for part in PARTS if not isinstance(result, dict) or part not in result]:
        raise DataError(f"{path} is no result of `sieverl eval`: it has no {missing[0]}")
    return dict(result)


def show(result: Result, path: Path, console: Console) -> None:
    """The table of one benchmark."""
    about, sampling = result["benchmark"], result["sampling"]
    how = "greedy" if sampling["greedy"] else f"temperature {sampling['temperature']:g}"
    table = Table(
        title=f"{escape(result['model']['name'])} on {escape(about['name'])}: {about['prompts']} prompts, {how}"
    )
    for column in ("", "value", "95% interval"):
        table.add_column(column, justify="right" if column else "left")
    for name, score in result["scores"].items():
        if name in ("pass@1", "maj@1"):  # the same as avg@k, avg@1
            continue
        table.add_row(name, f"{score['value']:.1%}", f"{score['low']:.1%} to {score['high']:.1%}")
    table.add_section()
    table.add_row("mean response length, tokens", f"{result['shares']['length_mean']:.1f}", "")
    for key, title in SHARES.items():
        if result["shares"][key] or key in ("truncated", "no_answer"):
            table.add_row(title, f"{result['shares'][key]:.1%}", "")
    console.print(table)
    if about["prompts"] == 1:
        console.print("one prompt says nothing of others: the intervals are from 0 to 100%", style="yellow")
    console.print(f"result: {escape(str(path))}\n")


def overview(results: Sequence[Result], console: Console) -> None:
    """One line a benchmark."""
    k = results[0]["sampling"]["k"]
    names = [f"pass@{k}", f"maj@{k}"] if k > 1 else []
    table = Table(title=f"{escape(results[0]['model']['name'])}, 95% intervals of avg@{k}")
    for column in ("benchmark", "prompts", f"avg@{k}", "95%", *names, "tokens", "truncated"):
        table.add_column(column, justify="left" if column == "benchmark" else "right", no_wrap=True)
    for result in results:
        scores, shares = result["scores"], result["shares"]
        average = scores[f"avg@{k}"]
        table.add_row(
            escape(result["benchmark"]["name"]),
            f"{result['benchmark']['prompts']}",
            f"{average['value']:.1%}",
            f"{100 * average['low']:.0f} to {100 * average['high']:.0f}",
            *(f"{scores[name]['value']:.1%}" for name in names),
            f"{shares['length_mean']:.0f}",
            f"{shares['truncated']:.0%}",
        )
    console.print(table)


# --- comparison -------------------------------------------------------------------------------------


def compare(first: Path, second: Path, console: Console) -> None:
    """Print what the second result has over the first on the prompts that both have, and what differs in how."""
    a, b = read(first), read(second)
    rows = common(a, b)
    if not rows:
        names = [
            f"{p} ({r['benchmark']['name']}, {r['benchmark']['prompts']} prompts)" for p, r in ((first, a), (second, b))
        ]
        raise UsageError(f"{names[0]} and {names[1]} have no prompt in common; compare results of one benchmark")
    for label, path, result in (("A", first, a), ("B", second, b)):
        console.print(f"{label}: {escape(str(path))}, {escape(result['model']['name'])}")
    sizes = a["benchmark"]["prompts"], b["benchmark"]["prompts"]
    if set(sizes) != {len(rows)}:
        console.print(
            f"only the {len(rows)} prompts in common are compared, of {sizes[0]} and {sizes[1]}", style="yellow"
        )
    different = "; ".join(differences(a, b))
    console.print(f"settings that differ (A / B): {escape(different)}" if different else "the settings are the same")
    if a["model"]["sha256"] == b["model"]["sha256"]:
        console.print("the weights are the same")
    table = Table(title=f"{escape(a['benchmark']['name'])}, {len(rows)} prompts, paired by prompt")
    for column in ("", "A", "B", "B - A", "95% interval"):
        table.add_column(column, justify="right" if column else "left")
    found = paired(rows, a["sampling"]["k"], b["sampling"]["k"])
    for name, (left, right, interval) in found.items():
        width = f"{interval[1]:+.1%} to {interval[2]:+.1%}" if interval else "no prompt differs"
        table.add_row(name, f"{left:.1%}", f"{right:.1%}", f"{right - left:+.1%}", width)
    console.print(table)
    if found["avg"][2] is None:
        console.print("no prompt differs in avg: these prompts cannot tell A from B")
        return
    mean, low, high = found["avg"][2]
    told = "the interval of avg contains 0: these prompts cannot tell A from B"
    console.print(told if low <= 0 <= high else f"{'B' if mean > 0 else 'A'} is better: the interval of avg excludes 0")


def common(a: Result, b: Result) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """The rows of both results, side by side, whose prompts (place, text and gold answer) are the same."""
    theirs = {(row["id"], row["prompt"]): row for row in b["rows"]}
    return [(row, theirs[key]) for row in a["rows"] if (key := (row["id"], row["prompt"])) in theirs]


def paired(
    rows: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]], k_a: int, k_b: int
) -> dict[str, tuple[float, float, Interval | None]]:
    """Mean of A, mean of B and the paired interval of B - A (None: no prompt differs); maj@k only with the same k."""

    def pair(name: str, a_P: Array, b_P: Array) -> dict[str, tuple[float, float, Interval | None]]:
        interval = paired_interval(a_P, b_P) if (a_P != b_P).any() else None
        return {name: (float(a_P.mean()), float(b_P.mean()), interval)}

    a_P, b_P = (np.array([row[side]["correct"] for row in rows]) for side in (0, 1))
    found = pair("avg", a_P / k_a, b_P / k_b)
    for draws in sorted({2**i for i in range(1, min(k_a, k_b).bit_length())} | ({min(k_a, k_b)} - {1})):
        found |= pair(f"pass@{draws}", pass_at(a_P, k_a, draws), pass_at(b_P, k_b, draws))
    if k_a == k_b > 1:
        major = [np.array([row[side]["majority"] for row in rows], dtype=float) for side in (0, 1)]
        found |= pair(f"maj@{k_a}", major[0], major[1])
    return found


def differences(a: Result, b: Result) -> Iterator[str]:
    """What was not the same: sampling, prompt form, verifier, precision, versions, the source of the prompts."""
    for part in ("sampling", "prompt", "verifier", "versions"):
        for key in sorted({*a[part], *b[part]} - {"example"}):
            if a[part].get(key) != b[part].get(key):
                yield f"{key} {_short(a[part].get(key))} / {_short(b[part].get(key))}"
    if a["model"]["dtype"] != b["model"]["dtype"]:
        yield f"dtype {a['model']['dtype']} / {b['model']['dtype']}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
