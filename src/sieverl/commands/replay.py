"""`sieverl replay`: the responses of a run under another algorithm."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sieverl.errors import DataError, SieveRLError, UsageError

if TYPE_CHECKING:
    from sieverl.display.terminal import Terminal
    from sieverl.replay.credit import Replayed
    from sieverl.replay.gradients import Gradient
    from sieverl.run_dir.saved import SavedRun


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of `sieverl replay`."""

    run: str
    algorithm: Sequence[str]
    step: str | None
    steps: str | None
    gradients: bool
    graded: str | None
    json: bool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `sieverl replay`."""
    parser.add_argument("run", metavar="RUN", help="directory of a run")
    parser.add_argument(
        "--algorithm", action="append", required=True, metavar="X", help="a name, or FILE.py:NAME; several times"
    )
    parser.add_argument("--step", metavar="N", help="only this step")
    parser.add_argument("--steps", metavar="A:B", help="only these, both included; default: all that are logged")
    parser.add_argument(
        "--gradients", action="store_true", help="load the weights before each step, and compare gradients"
    )
    parser.add_argument("--graded", choices=("yes", "no"), help="what rewards are where the run does not say it")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: Options) -> None:
    """Replay, and print what came out."""
    from sieverl.display.terminal import Terminal
    from sieverl.recipe import build
    from sieverl.replay.credit import check_same, replay
    from sieverl.replay.gradients import gradients, steps_with_weights
    from sieverl.replay.rows import chosen_steps, graded_in, read_logged
    from sieverl.run_dir.saved import SavedRun

    if options.step and options.steps:
        raise UsageError("--step and --steps say the same in two ways; give one of them")
    saved = SavedRun.read(Path(options.run).expanduser())
    try:
        recipe = build(saved.recipe)
    except SieveRLError as error:
        raise DataError(f"the recipe of {saved.path} cannot be used: {error}; replay needs the run's own") from error
    asked = options.step or options.steps
    steps = chosen_steps(saved, asked)
    if options.gradients and asked is None:
        steps = [step for step in steps if step in steps_with_weights(saved)]
    logged = [one for one in (read_logged(saved, recipe, step) for step in steps) if one is not None]
    if not logged:
        raise DataError(f"no responses of {saved.path} can be replayed: {'; '.join(saved.problems[:3])}")
    graded = graded_in(saved, recipe, None if options.graded is None else options.graded == "yes")
    own = replay(recipe, recipe.algorithm, logged, graded)
    if not own.refused:
        check_same(own, logged)
    others = [replay(recipe, name, logged, graded) for name in dict.fromkeys(options.algorithm)]
    if all(one.refused for one in others):
        raise UsageError("; ".join(f"{one.name} cannot be replayed: {one.refused}" for one in others))
    different = [one for one in others if one.name != own.name]
    found = gradients(saved, recipe, logged, own, different) if options.gradients else {}
    if options.json:
        print(json.dumps(as_json(saved, own, others, found), allow_nan=False))
    else:
        show(saved, own, others, found, Terminal(highlight=False))


def as_json(
    saved: SavedRun, own: Replayed, others: Sequence[Replayed], found: Mapping[str, Sequence[Gradient]]
) -> dict[str, object]:
    """All that was computed."""
    from sieverl.replay.credit import Tally
    from sieverl.replay.gradients import CRITIC

    def table(tally: Tally) -> dict[str, object]:
        return asdict(tally) | {"kept_fraction": tally.kept_fraction, "token_fraction": tally.token_fraction}

    algorithms = {
        one.name: {
            "refused": one.refused or None,
            "note": one.note or None,
            "total": table(Tally.total(one.tallies)) if one.tallies else None,
            "steps": [table(tally) for tally in one.tallies],
            "no_gradient": CRITIC if one.algorithm and one.algorithm.critic else None,
            "gradients": [asdict(gradient) for gradient in found.get(one.name, ())],
        }
        for one in others
    }
    about = {"run": saved.name, "own": own.name, "checked": not own.refused, "unchecked": own.refused or None}
    return {**about, "algorithms": algorithms, "problems": saved.problems}


def show(
    saved: SavedRun,
    own: Replayed,
    others: Sequence[Replayed],
    found: Mapping[str, Sequence[Gradient]],
    console: Terminal,
) -> None:
    """A table for each algorithm, a row a step and the total, and what could not be replayed."""
    for one in others:
        if one.refused:
            console.print(f"{one.name} cannot be replayed: {one.refused}", style="yellow", soft_wrap=True)
            continue
        console.print(table_of(saved, own, one, found.get(one.name)))
        if one.note:
            console.print(f"{one.name}: {one.note}", soft_wrap=True)
        if found and not found.get(one.name):
            from sieverl.replay.gradients import CRITIC

            console.print(f"{one.name}: {CRITIC}", soft_wrap=True)
    same = f"{own.name}, the run's own, gives exactly the credit that was logged"
    console.print(same if not own.refused else f"unchecked: {own.name}, the run's own: {own.refused}", soft_wrap=True)
    for problem in saved.problems:
        console.print(problem, style="yellow", soft_wrap=True)


def table_of(saved: SavedRun, own: Replayed, one: Replayed, found: Sequence[Gradient] | None) -> object:
    """The table of one algorithm."""
    from rich.table import Table

    from sieverl.replay.credit import Tally

    table = Table(title=f"{saved.name} ({own.name}) under {one.name}")
    for column in ("step", "responses", "kept", "tokens", "positive", "negative", "as the run"):
        table.add_column(column, justify="right")
    for column in ("gradient norm", "cosine") if found else ():
        table.add_column(column, justify="right")
    by_step = {gradient.step: gradient for gradient in found or ()}
    for tally in (*one.tallies, Tally.total(one.tallies)):
        if tally.step is None:
            table.add_section()
        gradient = by_step.get(tally.step) if tally.step is not None else None
        angle = "" if gradient is None or gradient.cosine is None else f"{gradient.cosine:.3f}"
        table.add_row(
            "total" if tally.step is None else str(tally.step),
            f"{tally.responses:,}",
            f"{tally.kept_fraction:.1%}",
            f"{tally.token_fraction:.1%}",
            f"{tally.positive:,}",
            f"{tally.negative:,}",
            f"{tally.agreed / max(tally.responses, 1):.1%}",
            *((f"{gradient.norm:.4g}" if gradient else "", angle) if found else ()),
        )
    return table
