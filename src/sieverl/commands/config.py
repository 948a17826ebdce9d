"""`sieverl config`: what a recipe may say, for other programs."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass

SCHEMA_HELP = "the JSON Schema of a recipe; an editor finds it by `#:schema FILE` in the first line of a TOML file"


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of `sieverl config`."""

    action: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The subcommands of `sieverl config`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="schema", help="what to print")
    actions.add_parser("schema", help=SCHEMA_HELP)


def run(options: Options) -> None:
    """Print the schema."""
    from sieverl.recipe.reference import schema

    print(json.dumps(schema(), indent=2))
