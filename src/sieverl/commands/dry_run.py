"""A dry run as a TOML file: the resolved recipe, and as comments what its run would begin with."""

from __future__ import annotations

import sys
import textwrap
from functools import partial
from typing import TYPE_CHECKING

from sieverl.errors import ExitCode
from sieverl.text import printable

if TYPE_CHECKING:
    from sieverl.recipe import Recipe
    from sieverl.training.dry_run import DryRun
    from sieverl.training.resume import Resume

WIDTH = 100
MOST_TOKENS = 200  # that are shown of the first prompt


def check_recipe(recipe: Recipe, resume: Resume) -> ExitCode:
    """Print what a run would begin with."""
    from sieverl.trackers import chosen
    from sieverl.training.dry_run import dry_run

    chosen(recipe.trackers)
    print(lines(dry_run(recipe, resume, partial(print, file=sys.stderr))), end="")
    return ExitCode.DONE


def lines(dry: DryRun) -> str:
    """The recipe with comments; a file of it is a recipe."""
    from sieverl.recipe import to_toml

    data, run_dir = dry.data, dry.recipe.run_dir
    begin = f"resumes {run_dir} at step {dry.step}" if dry.step else f"a new run in {run_dir}"
    about = [
        f"{begin}, to step {dry.recipe.steps}; {len(data.train):,} prompts to train on, {len(data.heldout):,} held out",
        *_prompt(dry),
        *_memory(dry),
        "all checks passed; weights were not loaded",
    ]
    return f"{to_toml(dry.recipe)}\n" + "".join(f"# {line}".rstrip() + "\n" for line in about)


def _prompt(dry: DryRun) -> list[str]:
    """The first prompt as the model sees it, and its tokens."""
    tokens = dry.data.train_tokens[0]
    text = [f"  {printable(line)}" for line in "".join(dry.pieces).splitlines()]
    shown = " ".join(f"{token}:{printable(repr(piece))}" for token, piece in zip(tokens, dry.pieces, strict=True))
    shown = " ".join(shown.split(" ")[:MOST_TOKENS]) if len(tokens) > MOST_TOKENS else shown
    return [
        "the first prompt, as the model sees it:",
        *text,
        f"its {len(tokens)} tokens:",
        *textwrap.wrap(shown, WIDTH, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False),
    ]


def _memory(dry: DryRun) -> list[str]:
    """The memory of one rank, item by item."""
    if not dry.memory:
        return ["memory: not known without loading the model; `sieverl plan --model-shape` takes its config.json"]
    items = [f"  {size / 1e9:9.3f} GB  {name}" for name, size in dry.memory.items()]
    return ["memory of one rank, estimated:", *items, f"  {dry.peak / 1e9:9.3f} GB  at the same time, at most"]
