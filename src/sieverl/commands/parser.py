"""The commands, and what their arguments mean. A command is imported only when it is named."""

from __future__ import annotations

import argparse
import importlib
import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import fields
from types import ModuleType
from typing import Any, NoReturn

from sieverl import __version__
from sieverl.errors import nearest
from sieverl.options import take_keys
from sieverl.text import printable

WRONG_COMMAND = re.compile(r"argument COMMAND: invalid choice: '(.*?)'")
# name -> what it does. The module of that name in `sieverl.commands` has `add_arguments(parser)`, `Options` (a
# dataclass of what they parse to) and `run(options)`.
COMMANDS = {
    "demo": "train the shipped tiny model, in about three minutes on a laptop",
    "init": "write a recipe: for a model and data, or from a TRL script or verl's settings",
    "train": "train a model from a recipe",
    "view": "look at runs in a browser: curves, groups of responses, tokens, verdicts",
    "plan": "say what a recipe needs on given GPUs, how long a step takes, and the fastest setting that fits",
    "recipes": "list the shipped recipes, or print one, to be kept and changed",
    "algorithms": "list the algorithms, or show one with its formula and axes",
    "verify": "score a file of responses against gold answers",
    "eval": "measure a model on benchmarks (avg@k, pass@k, maj@k), or compare two results",
    "data": "prepare datasets",
    "report": "write what runs learned as one HTML file, without any script",
    "study": "run a grid of algorithms and seeds: one table with intervals, and verdicts on claims",
    "replay": "compute what another algorithm would have kept of a run's responses, and its gradients",
    "export": "write a trained model as one folder of safetensors, adapters merged",
    "push": "upload a run's model with a model card to the Hugging Face Hub, private unless told otherwise",
    "doctor": "say what is installed and what is missing, or how a model is computed",
    "config": "print the JSON Schema of recipes, for editors that complete and check TOML",
    "completion": "print a script that completes commands, options and keys in your shell",
}


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

    @property
    def actions(self) -> list[argparse.Action]:
        """What the parser takes."""
        return self._actions

    def error(self, message: str) -> NoReturn:
        """Say how the command is used and what was probably meant, and leave."""
        wrong = WRONG_COMMAND.match(message)
        super().error(printable(message) + (nearest(wrong[1], COMMANDS) if wrong else ""))
