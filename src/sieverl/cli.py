"""The command. Imports what a subcommand needs only when it runs, so that help is immediate."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sieverl.errors import SieveError, UsageError

PREEMPTED, INTERRUPTED = 75, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code (0 done, 2 usage, 3 model or data, 4 checkpoint, 5 alarm, 75, 130)."""
    # OpenMP threads that spin while they wait make every step many times slower when another program is running.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    parser = build_parser()
    args, rest = parser.parse_known_args(argv)
    if rest and args.run not in (_train, _demo):
        parser.error(f"unknown argument {rest[0]}")
    args.rest = rest
    try:
        return args.run(args) or 0
    except SieveError as error:
        print(f"sieverl: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("sieverl: interrupted; a run goes on from its last checkpoint with the same command", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # `sieverl ... | head`: whoever reads has enough
        sys.stderr.close()
        return 0


def build_parser() -> argparse.ArgumentParser:
    """The parser of every subcommand."""
    parser = argparse.ArgumentParser(
        prog="sieverl", description="Reinforcement learning from verifiable rewards, on the responses that teach."
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=Command)

    def add(name: str, run: Callable[[argparse.Namespace], int | None], about: str) -> Command:
        command = commands.add_parser(name, help=about, description=about[:1].upper() + about[1:] + ".")
        command.set_defaults(run=run)
        return command

    demo = add("demo", _demo, "train the shipped tiny model, in about three minutes on a laptop")
    train = add("train", _train, "train a model from a recipe")
    train.add_argument("recipe", metavar="RECIPE.toml")
    for command in (demo, train):
        command.takes_recipe = True
        command.add_argument("--resume", choices=("auto", "never", "must"), default="auto", help="default: auto")
        command.add_argument("--run-dir", metavar="DIR", help="where the run is kept")
        for key, what in (("algorithm", "NAME"), ("steps", "N"), ("seed", "N"), ("dtype", "NAME")):
            command.add_argument(f"--{key}", metavar=what)

    algorithms = add("algorithms", _algorithms, "list the algorithms, or show one with its formula and axes")
    algorithms.add_argument("name", nargs="?", metavar="NAME")
    verify = add("verify", _verify, "score a file of responses against gold answers")
    verify.add_argument("--verifier", default="math", metavar="NAME")
    verify.add_argument("--input", required=True, metavar="F.jsonl", help="rows with `gold` and `response`")
    verify.add_argument("--output", required=True, metavar="G.jsonl", help="the rows with `reward` and `status`")
    verify.add_argument("--option", action="append", default=[], metavar="KEY=VALUE", help="option of the verifier")
    verify.add_argument("--gold", default="gold", metavar="COLUMN")
    verify.add_argument("--response", default="response", metavar="COLUMN")
    verify.add_argument("--workers", type=int, default=2)
    verify.add_argument("--timeout", type=float, default=5.0, metavar="SECONDS")
    verify.add_argument("--memory-mb", type=int, default=1024)
    evaluation = add("eval", _eval, "measure a model on benchmarks (avg@k, pass@k, maj@k), or compare two results")
    data = add("data", _data, "prepare datasets")
    from sieverl import eval_command
    from sieverl.data.command import add_arguments

    eval_command.add_arguments(evaluation)
    add_arguments(data)
    doctor = add("doctor", _doctor, "say what is installed and what is missing, or how a model is computed")
    doctor.add_argument("--model", metavar="M", help="a model directory, run, checkpoint or Hub id; `base`")
    return parser


class Command(argparse.ArgumentParser):
    """A subcommand. With `takes_recipe` its help ends with every key of the recipe, imported only then."""

    takes_recipe = False

    def format_help(self) -> str:
        if not self.takes_recipe:
            return super().format_help()
        from sieverl.recipe import keys

        width = max(len(name) for name, _ in keys())
        lines = [f"  --{name:<{width}}  {field.description or ''}".rstrip() for name, field in keys()]
        return super().format_help() + "\nevery key of the recipe:\n" + "\n".join(lines) + "\n"


def overrides(args: argparse.Namespace) -> dict[str, Any]:
    """Dotted overrides from the command line, in order: `--key value` and `--key=value`."""
    found: dict[str, Any] = {}
    rest = list(args.rest)
    while rest:
        option = rest.pop(0)
        if not option.startswith("--"):
            raise UsageError(f"unexpected argument {option!r}; options are --dotted.key value")
        key, equals, value = option[2:].partition("=")
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise UsageError(f"{option} has no value; write {option} VALUE")
            value = rest.pop(0)
        found[key] = value
    for key in ("run_dir", "algorithm", "steps", "seed", "dtype"):
        if getattr(args, key) is not None:
            found[key] = getattr(args, key)
    return found


def _train(args: argparse.Namespace) -> int:
    from sieverl.recipe import load

    changes = overrides(args)
    changes.setdefault("run_dir", f"runs/{Path(args.recipe).stem}")
    return _run(load(args.recipe, changes), args.resume)


def _demo(args: argparse.Namespace) -> int:
    from sieverl import demo

    recipe = demo.recipe(overrides(args), resume=args.resume)
    return _run(recipe, args.resume, demo.ending)


def _run(recipe: Any, resume: Any, ending: Callable[[Any, Any], None] | None = None) -> int:
    from rich.console import Console

    from sieverl import plot
    from sieverl.console import Progress, summary
    from sieverl.loop import Stopped, train
    from sieverl.setup import prepare

    console = Console(soft_wrap=True)
    run = prepare(recipe, resume, say=lambda text: console.print(text, highlight=False))
    if run.state.step >= recipe.steps and run.metrics.rows():
        console.print(f"{run.run_dir} is at step {run.state.step} of {recipe.steps}: nothing is left to do")
    with run.train.pool:
        try:
            train(run, Progress(run, console))
        except Stopped as stopped:
            console.print(f"stopped after step {run.state.step}, saved; the same command goes on from here")
            return INTERRUPTED if stopped.number == 2 else PREEMPTED
    if run.train.world.rank == 0:
        summary(run, console)
        picture = plot.curve(run.run_dir)
        if ending:
            ending(run, console)
        console.print(f"run directory: {run.run_dir}\npicture:       {picture}", highlight=False)
    return 0


def _algorithms(args: argparse.Namespace) -> None:
    from sieverl import listing

    listing.show(args.name)


def _verify(args: argparse.Namespace) -> None:
    from sieverl.recipe import parse
    from sieverl.verify.command import verify_file

    pairs = [option.partition("=") for option in args.option]
    if any(not equals for _, equals, _ in pairs):
        raise UsageError("--option takes KEY=VALUE, such as --option boxes=last")
    spec = {"name": args.verifier, **{key: parse(value) for key, _, value in pairs}}
    verify_file(
        spec,
        args.input,
        args.output,
        workers=args.workers,
        timeout_s=args.timeout,
        memory_mb=args.memory_mb,
        gold=args.gold,
        response=args.response,
    )


def _eval(args: argparse.Namespace) -> None:
    from sieverl import eval_command

    eval_command.run(args)


def _data(args: argparse.Namespace) -> None:
    from sieverl.data.command import run

    run(args)


def _doctor(args: argparse.Namespace) -> int:
    from sieverl import doctor

    return doctor.show_model(args.model) if args.model else doctor.show()
