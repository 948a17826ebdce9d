"""What `sieverl eval` measures: a benchmark with its prompts, verifier and sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from sieverl.options import parse_value
from sieverl.types import JsonObject, Prompt, VerifierSpec

MAX_TOKENS = 2048
VERIFIERS: Mapping[str, VerifierSpec] = {"math": {"rules": "lenient"}}  # options in evaluation


@dataclass(frozen=True)
class Task:
    """A benchmark as it is to be measured: its prompts, where they came from, how they are put and verified."""

    name: str
    prompts: Sequence[Prompt]
    verifier: VerifierSpec
    max_tokens: int
    origin: JsonObject = field(default_factory=dict)
    dropped: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class TaskOptions:
    """What is asked of a benchmark: which rows, how long a response may be, and how it is verified.

    None is the benchmark's own; `source_options` and `verifier_options` are `KEY=VALUE` as they came.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    split: str = "test"
    limit: int | None = None
    max_tokens: int | None = None
    source_options: Mapping[str, str] = field(default_factory=dict)
    verifier: str | None = None
    verifier_options: Mapping[str, str] = field(default_factory=dict)


def find_task(name: str, options: TaskOptions) -> Task:
    """A benchmark by name, file, Hub id or reasoning-gym task, read and checked; `demo` is the demo's held-out set."""
    return _demo(options) if name == "demo" else _benchmark(name, options)


def _demo(options: TaskOptions) -> Task:
    from sieverl.assets import RECIPE
    from sieverl.recipe import load

    recipe = load(RECIPE)
    held = recipe.evaluate
    asked = replace(
        options,
        columns={**held.columns, **options.columns},
        split=held.split,
        limit=options.limit or held.limit,
        max_tokens=options.max_tokens or recipe.rollout.max_tokens,
    )
    given = {key: parse_value(text) for key, text in options.source_options.items()}
    return _read("demo", held.source, asked, {**held.options, **given}, recipe.verify.spec)


def _benchmark(source: str, options: TaskOptions) -> Task:
    from sieverl.data.catalog import SOURCES
    from sieverl.data.locate import locate

    gym = source.startswith("reasoning_gym:")
    given = {key: parse_value(text) if gym else text for key, text in options.source_options.items()}
    place = locate(source, given)
    known = SOURCES.get(place.name or "")
    name = place.name or place.task or (place.path.stem if place.path else str(place.hub).rpartition("/")[2])
    default = {"name": "reasoning_gym"} if gym else {"name": "math", **VERIFIERS["math"]}
    return _read(
        name, source, replace(options, split=(known.evaluate if known else None) or options.split), given, default
    )


def _read(name: str, source: str, options: TaskOptions, given: JsonObject, default: VerifierSpec) -> Task:
    from sieverl.data.source import read
    from sieverl.verify import make_verifier

    spec = verifier(options, default)
    make_verifier(spec)
    loaded = read(source, columns=options.columns, split=options.split, limit=options.limit, options=given)
    dropped = [f"{row.where}: {row.detail}" for row in loaded.dropped]
    return Task(name, loaded.prompts, spec, options.max_tokens or MAX_TOKENS, dict(loaded.origin), dropped)


def verifier(options: TaskOptions, default: VerifierSpec) -> JsonObject:
    """The verifier's specification: the one asked for or the default, with the options on top."""
    spec = dict(default)
    if options.verifier not in (None, default["name"]):
        spec = {"name": options.verifier, **VERIFIERS.get(options.verifier or "", {})}
    return spec | {key: parse_value(text) for key, text in options.verifier_options.items()}
