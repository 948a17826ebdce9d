"""The keys of the recipe as options of a command: what its help lists, and what a shell completes."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence

RECIPE_HELP = "a file, or a name of `sieverl recipes`; each one changes what those before it say"
KEYS_USAGE = "[option ...] [--table.key VALUE ...]"


def add_keys(parser: argparse.ArgumentParser) -> None:
    """Every key of the recipe with its type, its default and a sentence, in the order of docs/recipe.md.

    They are for help and completion: `sieverl.options.take_keys` takes them from the arguments before these are parsed.
    """
    from sieverl.recipe.reference import choices, option, reference, tables

    about = tables()
    groups: dict[str, argparse._ArgumentGroup] = {}
    for key in reference():
        table = key.name.partition(".")[0] if "." in key.name else ""
        if table not in groups:
            title = (
                f"[{table}] {about[table].splitlines()[0].rstrip('.')}"
                if table
                else "keys of the recipe (docs/recipe.md)"
            )
            groups[table] = parser.add_argument_group(title)
        default = f" (default: {key.default})" if key.default else ""
        groups[table].add_argument(
            option(key.name),
            metavar=key.kind.upper() if key.kind.isalpha() else key.kind,
            choices=choices(key.kind) or None,
            default=argparse.SUPPRESS,
            help=f"{key.about}{default}".replace("%", "%%"),
        )


def hint_for(option: str, options: Sequence[str]) -> str:
    """What was probably meant by an option that is none: another option, or a key of the recipe."""
    from sieverl.recipe import keys
    from sieverl.recipe.names import meant

    known = [name for name, _ in keys()]
    own = [name for name in options if name.removeprefix("--").replace("-", "_") not in known]
    close = difflib.get_close_matches(option, own, n=1, cutoff=0.8)
    return f" Did you mean {close[0]}?" if close else meant(option.lstrip("-").replace("-", "_"), known)
