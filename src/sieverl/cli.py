"""The command. Imports what a subcommand needs only when it runs, so that help is immediate."""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import re
import signal
import sys
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import fields
from types import ModuleType
from typing import Any, NoReturn

from sieverl import __version__
from sieverl.errors import ExitCode, SieveRLError, StorageError, UsageError, nearest
from sieverl.options import take_keys
from sieverl.text import printable

WRONG_COMMAND = re.compile(r"argument COMMAND: invalid choice: '(.*?)'")
# name -> what it does. The module of that name in `sieverl.commands` has `add_arguments(parser)`, `Options` (a
# dataclass of what they parse to) and `run(options)`.
COMMANDS = {
    "demo": "train the shipped tiny model, in about three minutes on a laptop",
    "train": "train a model from a recipe",
    "view": "look at runs in a browser: curves, groups of responses, tokens, verdicts",
    "plan": "say what a recipe needs on given GPUs, how long a step takes, and the fastest setting that fits",
    "algorithms": "list the algorithms, or show one with its formula and axes",
    "verify": "score a file of responses against gold answers",
    "eval": "measure a model on benchmarks (avg@k, pass@k, maj@k), or compare two results",
    "data": "prepare datasets",
    "report": "write what runs learned as one HTML file, without any script",
    "doctor": "say what is installed and what is missing, or how a model is computed",
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
    try:
        command, options = parse(sys.argv[1:] if argv is None else argv)
    finally:
        sys.stdout.flush()  # the help; at the exit of the interpreter a reader that has left would be an error
    return int(command.run(options) or ExitCode.DONE)


def parse(arguments: Sequence[str]) -> tuple[ModuleType, Any]:
    """The command that the arguments name, and its `Options`. What argparse does not know is a key of the recipe."""
    name = next((argument for argument in arguments if not argument.startswith("-")), "")
    parser = build_parser([name])
    takes_keys = name in COMMANDS and any(field.name == "overrides" for field in fields(module(name).Options))
    others, keys = take_keys(arguments) if takes_keys else (list(arguments), [])
    args, rest = parser.parse_known_args(others)
    options = vars(args)
    command = module(options.pop("command"))
    if takes_keys:
        options["overrides"] = keys
    if rest:
        unknown(rest[0], name, takes_keys)
    return command, command.Options(**options)


def module(name: str) -> ModuleType:
    """The module of a command."""
    return importlib.import_module(f"sieverl.commands.{name}")


def unknown(argument: str, name: str, takes_keys: bool) -> NoReturn:
    """Refuse an argument that the command does not have, with the one that was probably meant."""
    parser = build_parser([name]).commands[name]
    option = argument.partition("=")[0]
    hint = nearest(option, parser.options) if option.startswith("--") else ""
    if takes_keys:
        from sieverl.commands.keys import hint_for

        hint = hint_for(option, parser.options)
    parser.error(f"unknown argument {argument}.{hint}" if hint else f"unknown argument {argument}")


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


def build_parser(filled: Container[str] = tuple(COMMANDS)) -> Parser:
    """The parser of every subcommand, of which those in `filled` have their options: those of `train` take a while."""
    parser = Parser(
        prog="sieverl", description="Reinforcement learning from verifiable rewards, on the responses that teach."
    )
    parser.add_argument("--version", action="version", version=f"sieverl {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", dest="command", required=True)
    for name, about in COMMANDS.items():
        command = commands.add_parser(name, help=about, description=about[:1].upper() + about[1:] + ".")
        if name in filled:
            module(name).add_arguments(command)
    parser.commands = commands.choices
    return parser


class Parser(argparse.ArgumentParser):
    """The parser of the command and its subcommands: options are written out, and a mistake has a hint."""

    commands: Mapping[str, Parser]

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **settings})

    @property
    def options(self) -> list[str]:
        """The options, as they are written."""
        return [option for option in self._option_string_actions if option.startswith("--")]

    def error(self, message: str) -> NoReturn:
        """Say how the command is used and what was probably meant, and leave."""
        wrong = WRONG_COMMAND.match(message)
        super().error(printable(message) + (nearest(wrong[1], COMMANDS) if wrong else ""))
