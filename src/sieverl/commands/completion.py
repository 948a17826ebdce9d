"""`sieverl completion`: a script for the shell, made by shtab from the options of every command."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

SHELLS = ("bash", "zsh", "fish")
INSTALL = """put it where your shell looks for it:
  bash: sieverl completion bash > ~/.local/share/bash-completion/completions/sieverl
  zsh:  sieverl completion zsh > DIR/_sieverl, where DIR is one of $fpath
  fish: sieverl completion fish > ~/.config/fish/completions/sieverl.fish"""
PLACES = ("DIR", "FILE", "RECIPE", "RUN", "F.", "G.")  # how the names of options that take a path begin


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of `sieverl completion`."""

    shell: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `sieverl completion`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = INSTALL
    parser.add_argument("shell", choices=SHELLS, help="the shell to make it for")


def run(options: Options) -> None:
    """Print the script."""
    import shtab

    from sieverl.commands.parser import build_parser

    parser = build_parser()
    for command in parser.commands.values():
        for action in command.actions:
            if str(action.metavar).startswith(PLACES):
                vars(action)["complete"] = shtab.FILE
    print(shtab.complete(parser, options.shell))
