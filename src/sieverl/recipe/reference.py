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


def help_lines() -> list[str]:
    """Two lines a key for the help of `train`, at most 80 columns each where the sentence allows it."""
    out = []
    for key in reference():
        default = f" (default: {key.default})" if key.default else ""
        out += [f"  --{key.name} {key.kind}", f"        {key.about}{default}"]
    return out


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
