"""The Hydra overrides in a shell script that starts verl. Nothing runs: variables are those the script sets to text."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from contextlib import suppress

import yaml

from sieverl.errors import UsageError
from sieverl.migrate.draft import Source

VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)(?::?-([^{}]*))?\})")
ASSIGNED = re.compile(r"^(?:export\s+|local\s+|readonly\s+|declare\s+)?([A-Za-z_]\w*)=(.*)$", re.DOTALL)
ARRAY = re.compile(r"^([A-Za-z_]\w*)\+?=\(\s*(.*?)\s*\)$", re.DOTALL)
OVERRIDE = re.compile(r"^(\+{0,2}|~)([A-Za-z_][\w./@-]*)=(.*)$", re.DOTALL)
MAIN = re.compile(r"verl(\.\w+)*\.main_(ppo|dapo)\w*|recipe\.\w+\.main_\w+")
KNOWN = {"HOME": "~"}


def overrides(text: str, path: str) -> dict[str, object]:
    """The overrides of verl's command in a script, by their dotted name. Raises a UsageError if there is none."""
    variables: dict[str, str] = dict(KNOWN)
    arrays: dict[str, list[str]] = {}
    for statement in statements(text):
        if found := ARRAY.match(statement):
            arrays.setdefault(found[1], []).extend(split(found[2], path))
        elif found := ASSIGNED.match(statement):
            words: list[str] = []
            with suppress(ValueError):  # a text over several lines: what it is for is not known
                words = shlex.split(statement, comments=True)
            if not 0 < len(words) <= 2:
                continue
            if "$(" not in statement and "`" not in statement:
                variables[found[1]] = filled(words[-1].partition("=")[2], variables)
        elif MAIN.search(statement):
            given = dict(each(expanded(split(statement, path), arrays), variables))
            if given:
                return given
    raise UsageError(
        f"{path} starts no verl.trainer.main_ppo with settings such as algorithm.adv_estimator=grpo; give verl's script"
    )


def statements(text: str) -> Iterator[str]:
    """Logical lines: joined where they go on, without comments; an array up to its bracket."""
    lines = re.sub(r"\\\r?\n", " ", "\n".join(re.sub(r"^\s*#.*$", "", line) for line in text.splitlines())).splitlines()
    held = ""
    for line in lines:
        held = f"{held}\n{line.strip()}" if held else line.strip()
        if re.match(r"^[A-Za-z_]\w*\+?=\(", held) and not held.rstrip().endswith(")"):
            continue
        if held:
            yield held
        held = ""


def split(text: str, path: str) -> list[str]:
    """The words of a line, as a shell has them."""
    try:
        return shlex.split(text, comments=True)
    except ValueError as error:
        line = text.strip().splitlines()[0][:60]
        raise UsageError(f"{path}: {line!r} is no shell that can be read here: {error}") from error


def expanded(words: list[str], arrays: dict[str, list[str]]) -> list[str]:
    """The words, with those of arrays in their places."""
    out: list[str] = []
    for word in words:
        found = re.fullmatch(r"\$\{(\w+)\[[@*]\]\}", word)
        out += arrays.get(found[1], []) if found else [word]
    return out


def each(words: list[str], variables: dict[str, str]) -> Iterator[tuple[str, object]]:
    """Name and value of each override."""
    for word in words:
        found = OVERRIDE.match(word)
        if found and "." in found[2]:
            text = filled(found[3], variables)
            yield found[2], Source(text) if "$" in text.replace("${oc.", "") else value_of(text)


def filled(text: str, variables: dict[str, str]) -> str:
    """Text with the variables that are known, and the defaults of `${NAME:-default}`; others stay."""

    def value(found: re.Match[str]) -> str:
        name = found[1] or found[2]
        return variables.get(name, found[3] if found[3] is not None else found[0])

    for _ in range(5):
        text, before = VARIABLE.sub(value, text)[:100_000], text
        if text == before:
            break
    return text


def value_of(text: str) -> object:
    """A value as Hydra reads it: numbers, true and false, null, lists; any other text is text.

    >>> value_of("1e-6"), value_of("True"), value_of("[a,b]"), value_of("fsdp"), value_of("null")
    (1e-06, True, ['a', 'b'], 'fsdp', None)
    """
    with suppress(ValueError):
        return float(text) if not re.fullmatch(r"[+-]?\d+", text) else int(text)
    with suppress(yaml.YAMLError, ValueError, RecursionError):
        value = yaml.safe_load(text)
        return value if isinstance(value, bool | list | dict) or value is None else text
    return text
