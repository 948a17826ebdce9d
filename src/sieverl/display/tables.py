"""Tables of evaluation results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from sieverl.errors import UsageError
from sieverl.evaluation.results import Result, common, differences, paired, read
from sieverl.types import ROUNDING, JsonObject

SHARES = {
    "truncated": "truncated at max_tokens",
    "no_answer": "no answer",
    "verifier_timeout": "verifier timeouts",
    "verifier_error": "verifier errors",
}


def show(result: Result, path: Path, console: Console) -> None:
    """The table of one benchmark."""
    about, sampling = result["benchmark"], result["sampling"]
    how = "greedy" if sampling["greedy"] else f"temperature {sampling['temperature']:g}"
    table = Table(title=f"{result['model']['name']} on {about['name']}: {about['prompts']} prompts, {how}")
    for column in ("", "value", "95% interval"):
        table.add_column(column, justify="right" if column else "left")
    for name, score in result["scores"].items():
        if name in ("pass@1", "maj@1"):  # the same as avg@k, avg@1
            continue
        table.add_row(name, f"{score['value']:.1%}", f"{score['low']:.1%} to {score['high']:.1%}")
    table.add_section()
    table.add_row("mean response length, tokens", f"{result['shares']['length_mean']:.1f}", "")
    average = result["scores"][f"avg@{sampling['k']}"]["value"]
    mean = result["shares"].get("reward_mean", average)
    if abs(mean - average) > ROUNDING:  # a graded reward, or a sum
        table.add_row("mean reward", f"{mean:.4f}", "")
    for key, title in SHARES.items():
        if result["shares"][key] or key in ("truncated", "no_answer"):
            table.add_row(title, f"{result['shares'][key]:.1%}", "")
    console.print(table)
    if about["prompts"] == 1:
        console.print("one prompt says nothing about others: the intervals are 0 to 100%", style="yellow")
    console.print(f"result: {path}\n")


def overview(results: Sequence[Result], console: Console) -> None:
    """One line a benchmark."""
    k = results[0]["sampling"]["k"]
    names = [f"pass@{k}", f"maj@{k}"] if k > 1 else []
    table = Table(title=f"{results[0]['model']['name']}, 95% intervals of avg@{k}")
    for column in ("benchmark", "prompts", f"avg@{k}", "95%", *names, "tokens", "truncated"):
        table.add_column(column, justify="left" if column == "benchmark" else "right", no_wrap=True)
    for result in results:
        scores, shares = result["scores"], result["shares"]
        average = scores[f"avg@{k}"]
        table.add_row(
            result["benchmark"]["name"],
            f"{result['benchmark']['prompts']}",
            f"{average['value']:.1%}",
            f"{100 * average['low']:.0f} to {100 * average['high']:.0f}",
            *(f"{scores[name]['value']:.1%}" for name in names),
            f"{shares['length_mean']:.0f}",
            f"{shares['truncated']:.0%}",
        )
    console.print(table)


# --- comparison -------------------------------------------------------------------------------------


def compare(first: Path, second: Path, console: Console) -> JsonObject:
    """Print how two results differ on the prompts that both have, and the settings that differ; the same as JSON."""
    a, b = read(first), read(second)
    rows = common(a, b)
    if not rows:
        names = [
            f"{p} ({r['benchmark']['name']}, {r['benchmark']['prompts']} prompts)" for p, r in ((first, a), (second, b))
        ]
        raise UsageError(f"{names[0]} and {names[1]} have no prompt in common; compare results of one benchmark")
    for label, path, result in (("A", first, a), ("B", second, b)):
        console.print(f"{label}: {path}, {result['model']['name']}")
    sizes = a["benchmark"]["prompts"], b["benchmark"]["prompts"]
    if set(sizes) != {len(rows)}:
        console.print(
            f"only the {len(rows)} prompts in common are compared, of {sizes[0]} and {sizes[1]}", style="yellow"
        )
    different = "; ".join(differences(a, b))
    console.print(f"settings that differ (A / B): {different}" if different else "the settings are the same")
    if a["model"]["sha256"] == b["model"]["sha256"]:
        console.print("the weights are the same")
    table = Table(title=f"{a['benchmark']['name']}, {len(rows)} prompts, paired by prompt")
    for column in ("", "A", "B", "B - A", "95% interval"):
        table.add_column(column, justify="right" if column else "left")
    found = paired(rows, a["sampling"]["k"], b["sampling"]["k"])
    scores = {
        name: {"a": left, "b": right, "difference": right - left, "interval": list(interval[1:]) if interval else None}
        for name, (left, right, interval) in found.items()
    }
    told_apart = {"prompts": len(rows), "differences": list(differences(a, b)), "scores": scores}
    for name, (left, right, interval) in found.items():
        width = f"{interval[1]:+.1%} to {interval[2]:+.1%}" if interval else "no prompt differs"
        table.add_row(name, f"{left:.1%}", f"{right:.1%}", f"{right - left:+.1%}", width)
    console.print(table)
    if found["avg"][2] is None:
        console.print("no prompt differs in avg: these prompts cannot tell A from B")
        return told_apart
    mean, low, high = found["avg"][2]
    told = "the interval of avg contains 0: these prompts cannot tell A from B"
    console.print(told if low <= 0 <= high else f"{'B' if mean > 0 else 'A'} is better: the interval of avg excludes 0")
    return told_apart
