"""Every key of the recipe with its type, its default and a sentence: for the help and for docs/recipe.md."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from sieverl.recipe.recipe import Recipe, keys

PLAIN = {int: "int", float: "float", str: "text", bool: "true|false"}


class Key(NamedTuple):
    """One key, in words."""

    name: str
    kind: str
    default: str
    about: str


def reference() -> Iterator[Key]:
    """Every key, in the order of the recipe.

    >>> next(key for key in reference() if key.name == "train.lr")
    Key(name='train.lr', kind='float', default='1e-06', about='learning rate')
    """
    defaults = Recipe().model_dump()
    for name, field in keys():
        value: Any = defaults
        for part in name.split("."):
            value = value[part]
        yield Key(name, kind_of(field.annotation), shown(value), field.description or "")


def kind_of(annotation: Any) -> str:
    """A type in a word: `int`, `a|b` for a choice, `text, ...` for a list, `KEY=text, ...` for a table.

    >>> kind_of(int | None), kind_of(Literal["a", "b"]), kind_of(tuple[str, ...]), kind_of(dict[str, str])
    ('int', 'a|b', 'text, ...', 'KEY=text, ...')
    """
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return kind_of(inner[0])
    if origin in (Union, types.UnionType):
        return "|".join(kind_of(one) for one in inner if one is not type(None))
    if origin is Literal:
        return "|".join(map(str, inner))
    if origin is tuple:
        return f"{kind_of(inner[0])}, ..." if inner[-1] is Ellipsis else ",".join(map(kind_of, inner))
    if origin is dict:
        return f"KEY={'value' if inner[1] is Any else kind_of(inner[1])}, ..."
    return PLAIN.get(annotation, "table")


def shown(value: object) -> str:
    """A default as it is written in TOML; empty where there is none.

    >>> shown(True), shown(()), shown(None), shown("math"), shown((0.9, 0.999))
    ('true', '', '', 'math', '0.9,0.999')
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return ",".join(map(str, value))
    return "" if value in (None, {}) else str(value)


def option(key: str) -> str:
    """The option that sets a key.

    >>> option("run_dir"), option("train.max_grad_norm")
    ('--run-dir', '--train.max_grad_norm')
    """
    return f"--{key if '.' in key else key.replace('_', '-')}"


def tables() -> dict[str, str]:
    """What each table of the recipe is for, by name."""
    kinds = {name: field.annotation for name, field in Recipe.model_fields.items()}
    return {name: kind.__doc__ or "" for name, kind in kinds.items() if isinstance(kind, type) and kind.__doc__}


def choices(kind: str) -> tuple[str, ...]:
    """The values that a key can have, where they can be listed.

    >>> choices("a|b"), choices("float")
    (('a', 'b'), ())
    """
    return tuple(kind.split("|")) if "|" in kind else ()


def markdown() -> str:
    """The tables of docs/recipe.md."""
    out: list[str] = []
    table = None
    for key in reference():
        section = key.name.rpartition(".")[0].split(".")[0]
        if section != table:
            table = section
            out += ["", f"## [{section}]" if section else "## Keys without a table", "",
                    "| key | type | default | what it is |", "|-|-|-|-|"]  # fmt: skip
        kind, about = key.kind.replace("|", r"\|"), key.about.replace("|", r"\|")
        out.append(f"| `{key.name}` | {kind} | {f'`{key.default}`' if key.default else ''} | {about} |")
    return "\n".join(out).strip() + "\n"


def schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a recipe's TOML file; every key is optional, and a rule may be a word.

    >>> schema()["properties"]["steps"]["description"]
    'steps of sampling and learning'
    """
    found = Recipe.model_json_schema()
    rule = found["$defs"]["AlarmSetting"]
    del rule["required"]  # a rule that gives some keys keeps the others
    for name, key in found["$defs"]["Alarms"]["properties"].items():
        if "$ref" in key:
            found["$defs"]["Alarms"]["properties"][name] = {"anyOf": [{"$ref": key["$ref"]}, rule["properties"]["do"]]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **found}
