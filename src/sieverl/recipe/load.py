"""From files, the environment and the command line to a checked recipe: each may change what those before it say.

Unknown keys name the nearest known one, and a value that cannot be names where it came from.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import get_origin

from pydantic import ValidationError

from sieverl.errors import UsageError, first_line
from sieverl.options import comma_separated, key_values, parse_value
from sieverl.recipe.names import meant
from sieverl.recipe.recipe import Recipe, keys
from sieverl.recipe.shipped import find
from sieverl.recipe.tables import JsonObject

# old key -> new key
RENAMED = {
    "axes.over": "axes.denominator",
    "axes.penalty_over": "axes.penalty_denominator",
    "rollout.max_rows": "rollout.max_num_seqs",
}
RENAMED_VALUES = {"train.reference": {"start": "initial"}}
PREFIX = "SIEVERL_"
Overrides = Mapping[str, object]  # dotted key -> value, or text that is parsed to one
Files = str | Path | Sequence[str | Path]
Where = Callable[[str], str]  # key -> the file that sets it


def load(files: Files, overrides: Overrides | None = None, environment: Mapping[str, str] | None = None) -> Recipe:
    """The recipe in one or more TOML files, from left to right, then `environment`, then the dotted `overrides`.

    The name of a shipped recipe stands for its file. Of `environment` the variables are read that `variables` finds.
    Raises a UsageError that names the key and where its value came from.
    """
    paths = [files] if isinstance(files, str | Path) else list(files)
    layers = [(str(path), read(path)) for path in paths]
    merged: JsonObject = {}
    for _, tables in layers:
        merged = merge(merged, tables)

    def where(key: str) -> str:
        having = [name for name, tables in layers if key in dotted(tables)]
        return having[-1] if having else layers[-1][0]

    return _checked(merged, dict(overrides or {}), variables(environment or {}), where)


def build(tables: Mapping[str, object], overrides: Overrides | None = None, where: str = "recipe") -> Recipe:
    """A checked recipe from nested tables and dotted overrides.

    >>> build({"train": {"lr": 1e-5}}, {"rollout.samples": "4"}).rollout.samples
    4
    """
    return _checked(merge({}, tables), dict(overrides or {}), {}, lambda key: where)


def read(path: str | Path) -> JsonObject:
    """The tables of a TOML file, or of a shipped recipe. Raises a UsageError for one that is not there, or no TOML."""
    file = find(path)
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # a number of thousands of digits is a ValueError of another kind
        raise UsageError(f"{path} is not valid TOML: {first_line(error)}") from error


def merge(below: Mapping[str, object], above: Mapping[str, object]) -> JsonObject:
    """Nested tables with those of `above` on top.

    >>> merge({"train": {"lr": 1.0, "epochs": 2}}, {"train": {"lr": 2.0}, "seed": 1})
    {'train': {'lr': 2.0, 'epochs': 2}, 'seed': 1}
    """
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        merged[key] = merge(under if isinstance(under, Mapping) else {}, value) if isinstance(value, Mapping) else value
    return merged


def dotted(tables: Mapping[str, object], prefix: str = "") -> Iterator[str]:
    """Every dotted key of nested tables, those of the tables too.

    >>> list(dotted({"train": {"lr": 1.0}, "seed": 1}))
    ['train', 'train.lr', 'seed']
    """
    for key, value in tables.items():
        yield f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from dotted(value, f"{prefix}{key}.")


def variables(environment: Mapping[str, str]) -> dict[str, str]:
    """The keys that environment variables set, as dotted key -> text; one that is empty sets nothing.

    >>> variables({"SIEVERL_TRAIN__LR": "1e-5", "SIEVERL_SEED": "3", "SIEVERL_STEPS": "", "HOME": "/root"})
    {'seed': '3', 'train.lr': '1e-5'}
    """
    ours = {name: text for name, text in environment.items() if name.startswith(PREFIX) and text}
    return {name.removeprefix(PREFIX).lower().replace("__", "."): ours[name] for name in sorted(ours)}


def variable(key: str) -> str:
    """The environment variable of a key.

    >>> variable("train.lr")
    'SIEVERL_TRAIN__LR'
    """
    return PREFIX + key.upper().replace(".", "__")


class Names(dict[str, str]):
    """What a message calls the keys that were set from outside the files: `--train.lr`, `SIEVERL_TRAIN__LR`."""

    def of(self, key: str) -> tuple[str, str] | None:
        """The key that was set, `key` itself or a table around it, and its name; None if a file set it."""
        parts = key.split(".")
        parents = [".".join(parts[:n]) for n in range(len(parts), 0, -1)]
        found = next((parent for parent in parents if parent in self), None)
        return None if found is None else (found, self[found])


def _checked(tables: JsonObject, overrides: Overrides, environment: Mapping[str, str], where: Where) -> Recipe:
    """The recipe with the environment and then the overrides on top; `where` is the file that sets a key."""
    names = Names()
    for given, name_of in ((environment, variable), (overrides, "--{}".format)):
        for key, value in given.items():
            names[key.replace("-", "_")] = name = name_of(key.replace("-", "_"))
            _set(tables, key.replace("-", "_"), value, name)
    try:
        return Recipe.model_validate(tables)
    except ValidationError as error:
        raise UsageError(_explain(error, where, names)) from error


def _set(tables: JsonObject, key: str, value: object, name: str) -> None:
    *path, last = key.split(".")
    for part in path:
        inner = tables.setdefault(part, {})
        if not isinstance(inner, dict):
            raise UsageError(f"{name}: {part} is a value, not a table")
        tables[part] = inner = dict(inner)
        tables = inner
    tables[last] = _parsed(key, value, name) if isinstance(value, str) else value


def _parsed(key: str, text: str, name: str) -> object:
    """The value of an option: as TOML has it, and `a,b` for a list, `a=b,c=d` for a table."""
    kind = get_origin(next((field.annotation for known, field in keys() if known == key), None))
    value = parse_value(text)
    if isinstance(value, str) and kind is dict and "=" in text:
        return key_values(comma_separated(text), name)
    if isinstance(value, str) and kind in (tuple, list) and "," in text:
        return [parse_value(part) for part in comma_separated(text)]
    return value


def _explain(error: ValidationError, where: Where, names: Names) -> str:
    """The first fault of a recipe in a line, with the file, option or variable that it came from."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    given, place = names.of(key) or (None, where(key))
    if first["type"] == "extra_forbidden" and key in RENAMED:
        return f"{place}: {key} is now called {RENAMED[key]}"
    if new := RENAMED_VALUES.get(key, {}).get(str(first["input"])):
        return f"{place}: {key} = {first['input']!r} is now called {new!r}"
    if first["type"] == "extra_forbidden":
        known = [name for name, _ in keys()]
        return f"{place}: there is no key {key!r}.{meant(key, known)} `sieverl train --help` lists them all"
    message = first["msg"].removeprefix("Value error, ")
    named = f"{key}: " if key and key != given else ""
    return f"{place}: {named}{message[:1].lower()}{message[1:]}" + (f" (got {_short(first['input'])})" if key else "")


def _short(value: object) -> str:
    """A value of the user's as it was given, if it is not too long for a message."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."
