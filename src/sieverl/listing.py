"""`sieverl algorithms`: every algorithm with its axes, one with its formula; read off the values themselves."""

from __future__ import annotations

import inspect
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sieverl.algorithm import Algorithm
from sieverl.algorithms import ALGORITHMS, get_algorithm

SHOWN = ("select", "advantage", "ratio", "objective", "aggregate", "over")
AXES = (
    "draw",
    "shape",
    "select",
    "advantage",
    "spread",
    "whiten",
    "ratio",
    "objective",
    "penalties",
    "aggregate",
    "over",
)


def describe(value: Any) -> str:
    """An axis as a short name: a function's name, a value's own form.

    >>> from sieverl.objective import Clipped
    >>> describe(Clipped(0.2, 0.28))
    'Clipped(low=0.2, high=0.28)'
    """
    name = getattr(value, "name", None) or getattr(value, "__name__", None)
    if isinstance(name, str):
        return name
    shown = repr(value)
    return shown.replace(", dual=None", "").replace("Draw(greedy=False, until=None, fresh=False, rounds=1)", "once")


def explain(value: Any) -> str:
    """The first sentence of what an axis says of itself."""
    doc = inspect.getdoc(value) or ""
    return doc.split("\n\n")[0].replace("\n", " ") if callable(value) else ""


def show(name: str | None) -> None:
    """Print the table of all algorithms, or everything about one."""
    console = Console(soft_wrap=True)
    if name is None:
        table = Table(title="An algorithm is one choice on each axis; what is not shown is as in reinforce.")
        for column in ("name", "keeps", "advantage", "what it is"):
            table.add_column(column, no_wrap=column != "what it is")
        for key, value in ALGORITHMS.items():
            table.add_row(key, describe(value.select), describe(value.advantage), value.about)
        console.print(table)
        console.print("sieverl algorithms NAME shows all axes and the formula of one", highlight=False)
        return
    algorithm = get_algorithm(name)
    console.print(f"[bold]{escape(name)}[/]: {escape(algorithm.about)}", highlight=False)
    console.print(f"paper:   {escape(algorithm.paper or 'see its base algorithm')}", highlight=False)
    console.print(f"formula: {escape(formula(algorithm))}", highlight=False)
    console.print(f"needs:   {', '.join(sorted(algorithm.needs)) or 'nothing beyond log-probs'}", highlight=False)
    table = Table()
    for column in ("axis", "choice", "meaning"):
        table.add_column(column)
    for axis in AXES:
        value = getattr(algorithm, axis)
        table.add_row(axis, escape(describe(value)), escape(explain(value)))
    if algorithm.critic is not None:
        table.add_row("critic", escape(repr(algorithm.critic)), "")
    console.print(table)
    console.print(f"run it:  sieverl demo --algorithm {name}", highlight=False)


def markdown() -> str:
    """The table of docs/algorithms.md: rows algorithms, columns axes."""
    lines = ["| algorithm | " + " | ".join(SHOWN) + " |", "|-" * (len(SHOWN) + 1) + "|"]
    for name, value in ALGORITHMS.items():
        cells = [describe(getattr(value, axis)).replace("low=", "").replace("high=", "") for axis in SHOWN]
        lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def formula(algorithm: Algorithm) -> str:
    """The loss in one line, put together from the axes.

    >>> formula(get_algorithm("raft"))
    'loss = 1/(kept responses) sum over kept [correct] of 1/|a| sum_t log_prob(A_t); A = one'
    """
    count = {
        "sequence_mean": f"1/({algorithm.over} responses)",
        "token_mean": f"1/({algorithm.over} tokens)",
        "constant_length": f"1/({algorithm.over} responses * max_tokens)",
        "pair_mean": "1/(pairs)",
    }[algorithm.aggregate.name]
    inner = {"sequence_mean": "1/|a| sum_t ", "pair_mean": ""}.get(algorithm.aggregate.name, "sum_t ")
    kept = f"[{describe(algorithm.select)}]"
    spread = "" if describe(algorithm.spread) == "to_tokens" else f", spread by {describe(algorithm.spread)}"
    ratio = f" with s {describe(algorithm.ratio)}" if "ratio" in algorithm.needs else ""
    penalties = "".join(f" + {p.coefficient:g} {describe(p.function)} over {p.over}" for p in algorithm.penalties)
    return (
        f"loss = {count} sum over kept {kept} of {inner}{describe(algorithm.objective)}(A_t){ratio}{penalties}; "
        f"A = {describe(algorithm.advantage)}{spread}"
    )
