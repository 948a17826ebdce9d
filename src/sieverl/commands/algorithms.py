"""`sieverl algorithms`: every algorithm with its axes, one with its formula; read off the values themselves."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sieverl.algorithms.algorithm import Algorithm
    from sieverl.types import JsonObject

AXES = (
    "sampling",
    "shape",
    "select",
    "advantage",
    "token_advantage",
    "whiten",
    "ratio",
    "objective",
    "penalties",
    "aggregate",
    "denominator",
)


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of `sieverl algorithms`."""

    name: str | None
    json: bool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `sieverl algorithms`."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="show this one, or FILE.py:NAME; without it, list all")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(options: Options) -> None:
    """Print the table of all algorithms, or everything about one."""
    import json

    from rich.table import Table
    from rich.text import Text

    from sieverl.algorithms.describe import describe, explain, formula
    from sieverl.algorithms.named import ALGORITHMS, get_algorithm
    from sieverl.display.terminal import Terminal

    name = options.name
    console = Terminal(soft_wrap=True)
    if options.json:
        chosen = {name: get_algorithm(name)} if name else ALGORITHMS
        print(json.dumps({key: as_json(value) for key, value in chosen.items()}, indent=2))
        return
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
    console.print(Text.assemble((name, "bold"), f": {algorithm.about}"), highlight=False)
    console.print(f"paper:   {algorithm.paper or 'see its base algorithm'}", highlight=False)
    console.print(f"formula: {formula(algorithm)}", highlight=False)
    console.print(f"needs:   {', '.join(sorted(algorithm.needs)) or 'nothing beyond log-probs'}", highlight=False)
    table = Table()
    for column in ("axis", "choice", "meaning"):
        table.add_column(column)
    for axis in AXES:
        value = getattr(algorithm, axis)
        table.add_row(axis, describe(value), explain(value))
    if algorithm.critic is not None:
        table.add_row("critic", repr(algorithm.critic), "")
    console.print(table)
    console.print(f"run it:  sieverl demo --algorithm {name}", highlight=False)


def as_json(algorithm: Algorithm) -> JsonObject:
    """What an algorithm is, its formula, what it needs, and its choice on each axis."""
    from sieverl.algorithms.describe import describe, formula

    return {
        "about": algorithm.about,
        "paper": algorithm.paper,
        "formula": formula(algorithm),
        "needs": sorted(algorithm.needs),
        "axes": {axis: describe(getattr(algorithm, axis)) for axis in AXES},
    }
