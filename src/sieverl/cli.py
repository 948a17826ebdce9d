"""The command. Imports what a subcommand needs only when it runs, so that help is immediate."""

from __future__ import annotations

import argparse
import errno
import os
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import fields
from types import ModuleType
from typing import NoReturn

from sieverl import __version__
from sieverl.commands import algorithms, data, demo, doctor, plan, recipes, report, train, verify, view
from sieverl.commands import eval as evaluate
from sieverl.errors import ExitCode, SieveRLError, StorageError, UsageError, nearest
from sieverl.text import printable

WRONG_COMMAND = re.compile(r"argument COMMAND: invalid choice: '(.*?)'")
# name -> module with `ABOUT`, `add_arguments(parser)`, `Options` (a dataclass of what they parse to) and `run(options)`
COMMANDS: dict[str, ModuleType] = {
    "demo": demo,
    "train": train,
    "view": view,
    "plan": plan,
    "recipes": recipes,
    "algorithms": algorithms,
    "verify": verify,
    "eval": evaluate,
    "data": data,
    "report": report,
    "doctor": doctor,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code, one of `ExitCode`. Without `argv` the signals are its own, too."""
    # OpenMP threads that spin while they wait make every step many times slower when another program is running.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    seen: list[int] = []
    try:
        with stop_signals(seen) if argv is None else nullcontext():
            code = run_command(argv)
            sys.stdout.flush()
    except BaseException as error:
        if seen or isinstance(error, KeyboardInterrupt):  # an import that is cut off raises errors of any type
            return stopped(seen)
        of_rich = isinstance(error, SystemExit) and isinstance(error.__context__, BrokenPipeError)
        if of_rich or isinstance(error, BrokenPipeError):
            return reader_left()
        error = of_the_system(error)
        if not isinstance(error, SieveRLError):
            raise error
        print(f"sieverl: {printable(str(error))}", file=sys.stderr)
        return error.exit_code
    return code


def run_command(argv: Sequence[str] | None) -> int:
    """Parse the arguments and run the command that they name."""
    parser = build_parser()
    try:
        args, rest = parser.parse_known_args(argv)
    finally:
        sys.stdout.flush()  # the help; at the exit of the interpreter a reader that has left would be an error
    options = vars(args)
    command = COMMANDS[options.pop("command")]
    if any(field.name == "overrides" for field in fields(command.Options)):  # dotted keys of the recipe
        options["overrides"] = rest
    elif rest:
        parser.error(f"unknown argument {rest[0]}")
    return int(command.run(command.Options(**options)) or ExitCode.DONE)


@contextmanager
def stop_signals(seen: list[int]) -> Iterator[None]:
    """The first SIGTERM or Ctrl-C is an interruption, so that files are closed and workers end; `seen` notes it.

    A second Ctrl-C leaves at once. `train` has handlers of its own while it can save.
    """

    def stop(number: int, frame: object) -> None:
        if seen and number == signal.SIGINT:
            os._exit(ExitCode.INTERRUPTED)
        seen.append(number)
        if len(seen) == 1:
            raise KeyboardInterrupt

    try:
        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread: its owner handles signals
        before = {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stopped(seen: Sequence[int]) -> ExitCode:
    """What is said of an interruption, and its exit code."""
    if signal.SIGTERM in seen[:1]:
        print("sieverl: stopped by SIGTERM; the same command goes on from what was saved", file=sys.stderr)
        return ExitCode.PREEMPTED
    print("sieverl: interrupted; the same command goes on from what was saved", file=sys.stderr)
    return ExitCode.INTERRUPTED


def of_the_system(error: BaseException) -> BaseException:
    """What the system says of a file that nobody expected: a name that is too long, a folder, no permission, a fault.

    Any other error is given back as it is.
    """
    if not isinstance(error, OSError) or error.filename is None:
        return error
    kind = StorageError if error.errno in (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS) else UsageError
    return kind(f"cannot use {str(error.filename)[:200]}: {error.strerror}; give another file, or repair this one")


def reader_left() -> ExitCode:
    """`sieverl ... | head`: the reader has enough. What is still buffered goes nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for number in (1, 2):
        os.dup2(nowhere, number)
    return ExitCode.DONE


def build_parser() -> argparse.ArgumentParser:
    """The parser of every subcommand."""
    parser = Parser(
        prog="sieverl", description="Reinforcement learning from verifiable rewards, on the responses that teach."
    )
    parser.add_argument("--version", action="version", version=f"sieverl {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", dest="command", required=True)
    for name, module in COMMANDS.items():
        about: str = module.ABOUT
        module.add_arguments(commands.add_parser(name, help=about, description=about[:1].upper() + about[1:] + "."))
    return parser


class Parser(argparse.ArgumentParser):
    """The parser of the command and its subcommands. With `takes_recipe` the help ends with every key of the recipe."""

    takes_recipe = False

    def error(self, message: str) -> NoReturn:
        """Say how the command is used and what was probably meant, and leave."""
        wrong = WRONG_COMMAND.match(message)
        super().error(printable(message) + (nearest(wrong[1], COMMANDS) if wrong else ""))

    def format_help(self) -> str:
        if not self.takes_recipe:
            return super().format_help()
        from sieverl.recipe.reference import help_lines  # pydantic: not needed for any other help

        keys = "\n".join(help_lines())
        return f"{super().format_help()}\nevery key of the recipe (docs/recipe.md):\n{keys}\n"
