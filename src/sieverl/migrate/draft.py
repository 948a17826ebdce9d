"""A recipe in the making: what is set and why, and what has no counterpart. It ends as a commented TOML file."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import tomli_w

from sieverl.recipe import Recipe, build, keys
from sieverl.text import printable
from sieverl.types import JsonObject

WIDTH = 110


class Note(NamedTuple):
    """A setting that has no counterpart here: its name elsewhere, its value, why, and what to do."""

    name: str
    value: object
    why: str

    def __str__(self) -> str:
        return one_line(
            f"{self.name} = {short(self.value)}: {self.why}" if self.value is not None else ": ".join(self[::2])
        )


@dataclass
class Draft:
    """Values by dotted key, the comment of each, what could not be taken over, and files that belong to the recipe.

    `title` is the first line of the file, `ending` its last lines; `files` are texts by path, such as the reward
    functions of a script.
    """

    title: str = ""
    values: dict[str, object] = field(default_factory=dict)
    comments: dict[str, str] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    ending: tuple[str, ...] = ()

    def set(self, key: str, value: object, comment: str = "") -> None:
        """Set a key of the recipe; a later value replaces an earlier one."""
        self.values[key] = value
        self.comments[key] = comment

    def note(self, name: str, value: object, why: str) -> None:
        """List a setting that has no counterpart."""
        self.notes.append(Note(name, value, why))

    def recipe(self) -> Recipe:
        """The checked recipe. Raises a UsageError for values that cannot be."""
        return build({}, self.values)

    def toml(self) -> str:
        """The recipe as TOML: what is not set here has its default; comments say where each value is from."""
        lines = [*comment(self.title)] if self.title else []
        if self.notes:
            lines += ["#", f"# Not taken over ({len(self.notes)}):"]
            lines += [line for note in self.notes for line in comment(str(note), "- ", "  ")]
        described = {name: info.description or "" for name, info in keys()}
        tables: dict[str, list[str]] = {}
        for key, value in in_order(self.values):
            table, _, name = key.rpartition(".")
            said = self.comments.get(key) or described.get(key, "")
            tables.setdefault(table, []).extend(assignment(name, value, said))
        for table, assignments in tables.items():
            lines += ["", *([f"[{table}]"] if table else []), *assignments]
        lines += ["", *(line for said in self.ending for line in comment(said))]
        return "\n".join(lines).strip() + "\n"


def in_order(values: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    """Keys in the order of the recipe, those of a verifier's own after the table's, tables after their parents."""
    order = {name: place for place, (name, _) in enumerate(keys())}
    firsts: dict[str, int] = {}
    for name, place in order.items():
        firsts.setdefault(name.rpartition(".")[0], place)
    return iter(
        sorted(values.items(), key=lambda kv: (firsts.get(kv[0].rpartition(".")[0], 0), order.get(kv[0], 10**6)))
    )


def assignment(name: str, value: object, said: str) -> list[str]:
    """`name = value  # said`, with a long comment above it."""
    line = f"{quoted(name)} = {inline(value)}"
    said = one_line(said)
    if not said:
        return [line]
    return [f"{line}  # {said}"] if len(line) + len(said) + 4 <= WIDTH else [*comment(said), line]


def comment(text: str, first: str = "", then: str = "") -> list[str]:
    """Lines of comment; whatever stands in the text, none of it gets out of them."""
    return textwrap.wrap(
        one_line(text), WIDTH, initial_indent=f"# {first}", subsequent_indent=f"# {then}", break_on_hyphens=False
    )


def one_line(text: str) -> str:
    """Text of others on one line, without control characters."""
    return " ".join(printable(text).split())


def short(value: object, length: int = 120) -> str:
    """A value as it was given, cut to `length`."""
    text = repr(value) if not isinstance(value, Source) else str(value)
    return text if len(text) <= length else f"{text[: length - 3]}..."


class Source(str):
    """The source text of an expression that is not a literal, such as `args.lr`."""


def inline(value: object) -> str:
    """A value as TOML on one line; None is no value of TOML and is refused by its writer.

    >>> inline([{"name": "math", "weight": 1.0}]), inline("a\\nb")
    ('[{name = "math", weight = 1.0}]', '"a\\\\nb"')
    """
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{quoted(str(k))} = {inline(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(inline(one) for one in value) + "]"
    return tomli_w.dumps({"x": value}).strip().removeprefix("x = ")


def quoted(name: str) -> str:
    """A key as TOML."""
    return tomli_w.dumps({name: 0}).rpartition(" = ")[0]


def flat(tree: Mapping[str, object], prefix: str = "") -> JsonObject:
    """Nested tables as dotted keys.

    >>> flat({"a": {"b": 1, "c": {}}})
    {'a.b': 1, 'a.c': {}}
    """
    out: JsonObject = {}
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            out |= flat(value, f"{prefix}{name}.")
        else:
            out[f"{prefix}{name}"] = value
    return out
