"""KEY=VALUE options of the command line, keys of the recipe among its arguments, and what their values mean."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from sieverl.errors import UsageError

PLAIN_KEYS = ("algorithm", "steps", "seed", "dtype", "threads", "run_dir")  # keys of the recipe that are in no table
KEY = re.compile(rf"--([\w-]+(\.[\w-]+)+|{'|'.join(key.replace('_', '[_-]') for key in PLAIN_KEYS)})")


def parse_value(text: str) -> Any:
    """A value as TOML reads it, else as JSON does (`null`, objects); anything else is a string.

    >>> parse_value("1e-5"), parse_value("true"), parse_value("grpo"), parse_value("[0.9, 0.95]"), parse_value("null")
    (1e-05, True, 'grpo', [0.9, 0.95], None)
    """
    with suppress(ValueError, RecursionError):
        return tomllib.loads(f"x = {text}")["x"]
    with suppress(ValueError, RecursionError):
        return json.loads(text)
    return text


def key_values(items: Sequence[str], option: str) -> dict[str, str]:
    """`KEY=VALUE` items as a dict of strings. Raises a UsageError that names `option` and the item.

    >>> key_values(["prompt=problem", "answer=final"], "--columns")
    {'prompt': 'problem', 'answer': 'final'}
    """
    if wrong := [item for item in items if "=" not in item]:
        raise UsageError(f"{option} has {wrong[0]!r}; it takes KEY=VALUE")
    return dict(item.split("=", 1) for item in items)


def comma_separated(text: str) -> list[str]:
    """The items of `a,b,c` without surrounding spaces; empty ones are left out.

    >>> comma_separated("a, b,,c")
    ['a', 'b', 'c']
    """
    return [part.strip() for part in text.split(",") if part.strip()]


def take_keys(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arguments without those that set a key of the recipe, and these with their values, as `--key=value`.

    >>> take_keys(["--train.lr", "1e-5", "r.toml", "--rollout.samples=8", "--seed", "3", "--resume", "never"])
    (['r.toml', '--resume', 'never'], ['--train.lr=1e-5', '--rollout.samples=8', '--seed=3'])
    """
    others, keys, rest = [], [], list(arguments)
    while rest:
        argument = rest.pop(0)
        if not KEY.fullmatch(argument.partition("=")[0]):
            others.append(argument)
        elif "=" in argument or not rest or rest[0].startswith("--"):
            keys.append(argument)
        else:
            keys.append(f"{argument}={rest.pop(0)}")
    return others, keys


def parse_keys(arguments: Sequence[str]) -> dict[str, str]:
    """Dotted key -> text of `--key=value` arguments. Raises a UsageError for anything else.

    >>> parse_keys(["--train.lr=1e-5", "--run-dir=runs/a"])
    {'train.lr': '1e-5', 'run_dir': 'runs/a'}
    """
    found: dict[str, str] = {}
    for argument in arguments:
        option, equals, value = argument.partition("=")
        if not equals:
            raise UsageError(f"{option} has no value; write {option} VALUE")
        found[option.removeprefix("--").replace("-", "_")] = value
    return found
