"""`sieverl init`: a recipe for a model and data, or from the settings of TRL or verl."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sieverl.errors import UsageError
from sieverl.options import comma_separated, key_values

if TYPE_CHECKING:
    from sieverl.migrate.draft import Draft


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of `sieverl init`."""

    source: str = ""
    model: str | None = None
    data: str | None = None
    algorithm: str = ""
    verifier: str = ""
    columns: str = ""
    split: str = "train"
    processes: int = 1
    output: str = "recipe.toml"
    force: bool = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `sieverl init`."""
    add = parser.add_argument
    add(
        "--from",
        dest="source",
        default="",
        metavar="PATH",
        help="TRL script (.py, .ipynb), YAML of TRL or verl, verl's .sh",
    )
    add("--model", metavar="DIR|HUB-ID", help="empty: the base model, which is shipped")
    add("--data", metavar="SOURCE", help="a file, a known name (`sieverl data list`), a Hub id, reasoning_gym:TASK")
    add("--algorithm", default="", metavar="NAME", help="default: reinforce_rej (`sieverl algorithms`)")
    add(
        "--verifier", default="", metavar="NAME", help="math, choice, ..., FILE.py:NAME; default: what fits the answers"
    )
    add("--columns", default="", metavar="prompt=A,answer=B", help="where they are not guessed right")
    add("--split", default="train", help="default: train")
    add("--processes", type=int, default=1, metavar="N", help="--from: processes that the TRL script is run with")
    add("--output", default="recipe.toml", metavar="FILE", help="default: recipe.toml")
    add("--force", action="store_true", help="replace files that are there")


def run(options: Options) -> None:
    """Write the recipe, and say what comes next."""
    from sieverl.files import write_text

    refuse_to_replace([options.output], options.force)
    if options.processes < 1:
        raise UsageError(f"--processes {options.processes} is below 1; give the number of GPUs")
    draft = from_elsewhere(options) if options.source else from_wishes(options)
    files = {**draft.files, options.output: draft.toml()}
    refuse_to_replace(list(files), options.force)
    for name, text in files.items():
        write_text(Path(name), text)
        print(f"wrote {name}")
    start = f"torchrun --nproc-per-node {options.processes} -m sieverl" if options.processes > 1 else "sieverl"
    print(f"next: {start} train {options.output}")


def refuse_to_replace(names: list[str], force: bool) -> None:
    """Raise a UsageError for a file that is there, unless it may be replaced, or for a folder that is not."""
    for name in names:
        if Path(name).is_dir() or not Path(name).absolute().parent.is_dir():
            raise UsageError(f"cannot write {name}: give the name of a file in a directory that exists (--output)")
        if Path(name).exists() and not force:
            raise UsageError(f"{name} is there already; choose another --output, or replace it with --force")


def from_elsewhere(options: Options) -> Draft:
    """The recipe of a script or a configuration; what has no counterpart is printed."""
    from sieverl.migrate import convert

    wrong = [f"--{name}" for name in ("model", "data", "algorithm", "verifier", "columns") if getattr(options, name)]
    if wrong:
        raise UsageError(f"{wrong[0]} and --from do not go together: change it in the recipe, or as an option of train")
    draft = convert(options.source, options.output, options.processes)
    if draft.notes:
        print(f"not taken over ({len(draft.notes)}):")
    for note in draft.notes:
        print(f"- {note}")
    return draft


def from_wishes(options: Options) -> Draft:
    """The recipe for a model and data, which are asked for where they are not given."""
    from sieverl.algorithms import get_algorithm
    from sieverl.migrate.draft import one_line, short
    from sieverl.migrate.new import Wishes, new_recipe
    from sieverl.verify.registry import make_verifier

    asks = sys.stdin.isatty() and sys.stderr.isatty()
    if options.data is None and not asks:
        raise UsageError("sieverl init needs --data: a file, a known name, a Hub id or reasoning_gym:TASK")
    model, data, algorithm, verifier = options.model, options.data, options.algorithm, options.verifier
    if asks:
        model = ask("model (Hugging Face directory or Hub id; empty: the shipped one)", "") if model is None else model
        data = data or ask("data (file, known name, Hub id, reasoning_gym:TASK)", "gsm8k")
        algorithm = algorithm or ask("algorithm", "reinforce_rej")
        verifier = verifier or ask("verifier (empty: what fits the answers)", "")
    get_algorithm(algorithm or "reinforce_rej")
    columns = key_values(comma_separated(options.columns), "--columns")
    wishes = Wishes(model or "", data or "", algorithm, verifier, options.split, columns)
    draft, first = new_recipe(wishes)
    make_verifier(draft.recipe().verify.spec)
    print(f"first prompt: {one_line(short(first.text, 200))}")
    print(f"its answer: {one_line(short(first.row.get('answer'), 80))} (verifier {draft.values['verify.name']})")
    return draft


def ask(question: str, default: str) -> str:
    """The answer to a question, on standard error since data is on standard output."""
    print(f"{question}{f' [{default}]' if default else ''}: ", end="", file=sys.stderr, flush=True)
    try:
        return input().strip() or default
    except EOFError as error:
        raise UsageError("the answers ended; give --model and --data") from error
