"""KEY=VALUE options of the command line and what their values mean."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from sieverl.errors import UsageError


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
