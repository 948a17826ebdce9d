"""Resolve the name of a source: a local path, a known dataset, a Hub id or a reasoning-gym task."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from sieverl.data.answers import extractor
from sieverl.data.catalog import SOURCES, DatasetSpec
from sieverl.data.local import SUFFIXES
from sieverl.errors import DataError, UsageError, nearest
from sieverl.files import user_path

_HUB = re.compile(r"(?P<hub>[\w.-]+/[\w.-]+)(:(?P<config>[\w.-]+))?(@(?P<revision>[\w./-]+))?")
_OPTIONS = ("path", "revision", "config", "extract", "bad_rows")
_UNKNOWN = DatasetSpec("")


@dataclass(frozen=True)
class DatasetRef:
    """A resolved source: exactly one of `path`, `hub` and `task` is set.

    `source` is the text that was given, `name` the known name, if it has one. `spec` says which columns to read and
    how; `config` and `revision` are those of a Hub dataset, `options` those of a reasoning-gym task.
    """

    source: str
    spec: DatasetSpec = _UNKNOWN
    name: str | None = None
    path: Path | None = None
    hub: str | None = None
    task: str | None = None
    config: str | None = None
    revision: str | None = None
    options: Mapping[str, object] = field(default_factory=dict)


def locate(source: str, options: Mapping[str, object]) -> DatasetRef:
    """Resolve a source. A known name takes precedence over a file of that name: write `./math` for the file.

    Raises UsageError for an unknown option, DataError for a source that is nothing known.

    >>> locate("org/set:main@abc123", {}).revision
    'abc123'
    """
    kind, _, task = source.partition(":")
    if kind == "reasoning_gym":
        return DatasetRef(source, task=task, options=options)
    if wrong := sorted(set(options) - set(_OPTIONS)):
        raise UsageError(
            f"unknown data option {wrong[0]!r}; allowed: {', '.join(_OPTIONS)}.{nearest(wrong[0], _OPTIONS)}"
        )
    ref = _locate(source)
    if (bad := options.get("bad_rows", "stop")) not in ("stop", "drop"):
        raise UsageError(f"bad_rows is {bad!r}; allowed: stop, drop")
    if "extract" in options:
        ref = replace(ref, spec=replace(ref.spec, extract=extractor(str(options["extract"]))))
    if "path" in options:
        return replace(ref, path=user_path(str(options["path"])), hub=None)
    config, revision = options.get("config", ref.config), options.get("revision", ref.revision)
    return replace(ref, config=_text(config), revision=_text(revision))


def _locate(source: str) -> DatasetRef:
    name, at, rest = source.partition("@")
    if name in SOURCES:
        spec = SOURCES[name]
        if at and _is_path(rest):
            return DatasetRef(source, spec, name, path=user_path(rest), config=spec.config)
        return DatasetRef(source, spec, name, hub=spec.hub, config=spec.config, revision=rest or None)
    path = user_path(source)
    if path.exists() or path.suffix.lower() in SUFFIXES:
        return DatasetRef(source, path=path)
    if match := _HUB.fullmatch(source):
        spec = next((s for s in SOURCES.values() if s.hub == match["hub"]), _UNKNOWN)
        config = match["config"] or spec.config
        return DatasetRef(source, spec, hub=match["hub"], config=config, revision=match["revision"])
    raise DataError(
        f"cannot find the data {source!r}: no such file, and not one of the known names ({', '.join(SOURCES)}), "
        f"reasoning_gym:TASK or a Hub id org/name.{nearest(source, SOURCES)}"
    )


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _is_path(text: str) -> bool:
    path = user_path(text)
    return path.exists() or path.suffix.lower() in SUFFIXES or ("/" in text and not text.startswith("refs/"))
