"""What becomes of a setting of another trainer: a key of ours, one of several that are converted together, or none."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sieverl.errors import UsageError, nearest
from sieverl.migrate.draft import Draft, Source, short
from sieverl.recipe import keys


@dataclass(frozen=True)
class Rule:
    """One setting elsewhere: its default there, our keys (none: no counterpart), and a sentence.

    `convert` makes our value of theirs where the setting alone decides it. `neutral` values of a setting without
    counterpart say what happens here anyway.
    """

    default: object
    ours: tuple[str, ...] = ()
    about: str = ""
    convert: Callable[[object], object] | None = None
    neutral: tuple[object, ...] = ()


def same(key: str, default: object, about: str = "", convert: Callable[[object], object] = lambda value: value) -> Rule:
    """A setting that is one of ours, under another name."""
    return Rule(default, (key,), about, convert)


def joint(default: object, *ours: str, about: str) -> Rule:
    """A setting that decides, together with others, some of our keys."""
    return Rule(default, ours, about)


def absent(default: object, why: str, *neutral: object) -> Rule:
    """A setting without counterpart: why, and what to do. The values in `neutral` need nothing."""
    return Rule(default, (), why, neutral=neutral)


@dataclass(frozen=True)
class Settings:
    """The settings that were given, and the defaults of the others."""

    rules: Mapping[str, Rule]
    given: Mapping[str, object]
    of: str  # who has these settings

    def __getitem__(self, name: str) -> object:
        """The value that is in force; an expression that nobody can know counts as not given."""
        value = self.given.get(name, self.rules[name].default)
        return self.rules[name].default if isinstance(value, Source) else value

    def has(self, name: str) -> bool:
        """Whether a setting was given a value that is known."""
        return name in self.given and not isinstance(self.given[name], Source) and self.given[name] is not None

    def number(self, name: str) -> float:
        """A setting that must be a number."""
        value = self[name]
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UsageError(f"{name} = {short(value)} of {self.of} is not a number; give one, such as 1")
        return value

    def whole(self, name: str) -> int:
        """A setting that must be a whole number."""
        value = self.number(name)
        if value != int(value):
            raise UsageError(f"{name} = {value} of {self.of} is not a whole number")
        return int(value)

    def said(self, *names: str) -> str:
        """The settings that decided a value, for the comment beside it.

        >>> Settings({"a": Rule(1), "b": Rule(2)}, {"b": 3}, "TRL").said("a", "b")
        'a = 1 (default of TRL), b = 3'
        """
        return ", ".join(
            f"{name} = {short(self[name], 40)}{'' if self.has(name) else f' (default of {self.of})'}" for name in names
        )


def rule_of(rules: Mapping[str, Rule], name: str) -> Rule | None:
    """The rule of a setting: its own, or that of the innermost table it is in, `a.b.*`.

    >>> rules = {"a.*": Rule("outer"), "a.b.*": Rule("inner"), "a.b.c": Rule("own")}
    >>> [rule_of(rules, name).default for name in ("a.x", "a.b.x.y", "a.b.c")], rule_of(rules, "x")
    (['outer', 'inner', 'own'], None)
    """
    tables = name
    while name not in rules and tables:
        tables = tables.rpartition(".")[0]
        if f"{tables}.*" in rules:
            return rules[f"{tables}.*"]
    return rules.get(name)


def as_number(rules: Mapping[str, Rule], name: str, value: object, of: str) -> object:
    """Text where the setting is a number: YAML 1.1 reads 1e-6 as text. Raises a UsageError for any other text."""
    default = rules[name].default if name in rules else None
    if isinstance(value, Source) or not isinstance(value, str) or isinstance(default, bool | str | list | None):
        return value
    try:
        number = float(value)
    except ValueError as error:
        raise UsageError(f"{name} = {short(value)} of {of} is not a number; give one, such as {default}") from error
    return int(number) if isinstance(default, int) and number == int(number) else number


def like(rules: Mapping[str, Rule], name: str) -> str:
    """A hint for a name that may be a typo of another one in the same table."""
    table, _, last = name.rpartition(".")
    others = [other.rpartition(".")[2] for other in rules if other.rpartition(".")[0] == table]
    found = difflib.get_close_matches(last, others, n=1, cutoff=0.85)
    return f". Did you mean {table}.{found[0]}?" if found else ""


def alike(value: object) -> object:
    """A value as it compares: a list is a tuple."""
    return tuple(value) if isinstance(value, list) else value


def apply_rules(settings: Settings, draft: Draft) -> None:
    """Set what one setting alone decides, and list what has no counterpart, in the order in which it was given."""
    ours = {name: field.get_default() for name, field in keys()}
    for name, rule in settings.rules.items():
        if rule.convert and (name in settings.given or alike(rule.default) != alike(ours.get(rule.ours[0]))):
            value = settings[name]
            if value is not None and not isinstance(settings.given.get(name), Source):
                draft.set(rule.ours[0], rule.convert(value), settings.said(name))
    for name, value in settings.given.items():
        found = rule_of(settings.rules, name)
        if found is None:
            draft.note(name, value, f"no setting of {settings.of}.{nearest(name, settings.rules)}")
        elif isinstance(value, Source):
            where = f"set {', '.join(found.ours)}" if found.ours else found.about
            draft.note(name, value, f"not a literal, so its value is not known; {where}")
        elif not found.ours and value not in (*found.neutral, None):
            draft.note(name, value, found.about + (like(settings.rules, name) if name not in settings.rules else ""))


def markdown(rules: Mapping[str, Rule], of: str) -> str:
    """The table of docs/from-trl.md and docs/from-verl.md."""
    lines = [f"| {of} | default | SieveRL | how |", "|-|-|-|-|"]
    for name, rule in rules.items():
        ours = ", ".join(f"`{key}`" for key in rule.ours) or "none"
        default = "" if rule.default is None else f"`{rule.default}`"
        lines.append(f"| `{name}` | {default} | {ours} | {rule.about or 'the same'} |")
    return "\n".join(lines) + "\n"
