"""The command. Imports what a subcommand needs only when it runs, so that help is immediate."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import fields
from types import ModuleType

from sieverl.commands import algorithms, data, demo, doctor, plan, train, verify
from sieverl.commands import eval as evaluate
from sieverl.errors import ExitCode, SieveRLError
from sieverl.text import printable

# name -> module with `ABOUT`, `add_arguments(parser)`, `Options` (a dataclass of what they parse to) and `run(options)`
COMMANDS: dict[str, ModuleType] = {
    "demo": demo,
    "train": train,
    "plan": plan,
    "algorithms": algorithms,
    "verify": verify,
    "eval": evaluate,
    "data": data,
    "doctor": doctor,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code, one of `ExitCode`."""
    # OpenMP threads that spin while they wait make every step many times slower when another program is running.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    parser = build_parser()
    args, rest = parser.parse_known_args(argv)
    options = vars(args)
    command = COMMANDS[options.pop("command")]
    if any(field.name == "overrides" for field in fields(command.Options)):  # dotted keys of the recipe
        options["overrides"] = rest
    elif rest:
        parser.error(f"unknown argument {rest[0]}")
    try:
        return int(command.run(command.Options(**options)) or ExitCode.DONE)
    except SieveRLError as error:
        print(f"sieverl: {printable(str(error))}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("sieverl: interrupted; the same command resumes the run from its last checkpoint", file=sys.stderr)
        return ExitCode.INTERRUPTED
    except BrokenPipeError:  # `sieverl ... | head`: the reader has enough
        sys.stderr.close()
        return ExitCode.DONE


def build_parser() -> argparse.ArgumentParser:
    """The parser of every subcommand."""
    parser = argparse.ArgumentParser(
        prog="sieverl", description="Reinforcement learning from verifiable rewards, on the responses that teach."
    )
    commands = parser.add_subparsers(metavar="COMMAND", dest="command", required=True, parser_class=Parser)
    for name, module in COMMANDS.items():
        about: str = module.ABOUT
        module.add_arguments(commands.add_parser(name, help=about, description=about[:1].upper() + about[1:] + "."))
    return parser


class Parser(argparse.ArgumentParser):
    """The parser of a subcommand. With `takes_recipe` its help ends with every key of the recipe."""

    takes_recipe = False

    def format_help(self) -> str:
        if not self.takes_recipe:
            return super().format_help()
        from sieverl.recipe import keys  # pydantic: not needed for any other help

        width = max(len(name) for name, _ in keys())
        lines = [f"  --{name:<{width}}  {field.description or ''}".rstrip() for name, field in keys()]
        return super().format_help() + "\nevery key of the recipe:\n" + "\n".join(lines) + "\n"
