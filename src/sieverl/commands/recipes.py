"""`sieverl recipes`: the shipped recipes, and the text of one, to be kept and changed."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of `sieverl recipes`."""

    name: str | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `sieverl recipes`."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="print this one, as TOML; default: list them all")


def run(options: Options) -> None:
    """Print the table of all shipped recipes, or the text of one and nothing else."""
    from sieverl.recipe.shipped import about, find, shipped

    if options.name is not None:
        sys.stdout.write(find(options.name).read_text(encoding="utf-8"))
        return
    known = shipped()
    width = max(map(len, known))
    for name, file in known.items():
        print(f"{name:<{width}}  {about(file)}")
    print("\nsieverl train NAME runs one; sieverl recipes NAME > mine.toml keeps it, to be changed")
