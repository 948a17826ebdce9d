"""What the name of a source means: a local path, a known dataset, a Hub id or a reasoning-gym task."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sieverl.data.answers import extractor
from sieverl.data.catalog import SOURCES, DatasetSpec
from sieverl.data.local import SUFFIXES
from sieverl.errors import DataError, UsageError, nearest

_HUB = re.compile(r"(?P<hub>[\w.-]+/[\w.-]+)(:(?P<config>[\w.-]+))?(@(?P<revision>[\w./-]+))?")
_OPTIONS = ("path", "revision", "config", "extract", "bad_rows")
_ANY = DatasetSpec("")


@dataclass(frozen=True)
class DatasetRef:
    """A source taken apart: what is known of it, and one of a local path, a Hub id or a reasoning-gym task."""

    source: str
    known: DatasetSpec = _ANY
    name: str | None = None
    path: Path | None = None
    hub: str | None = None
    task: str | None = None
    config: str | None = None
    revision: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


def locate(source: str, options: Mapping[str, Any]) -> DatasetRef:
    """What a source means. A known name wins over a file of that name: write `./math` for the file.

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
    place = _locate(source)
    if (bad := options.get("bad_rows", "stop")) not in ("stop", "drop"):
        raise UsageError(f"bad_rows is {bad!r}; allowed: stop, drop")
    if "extract" in options:
        place = replace(place, known=replace(place.known, extract=extractor(str(options["extract"]))))
    if "path" in options:
        return replace(place, path=Path(options["path"]).expanduser(), hub=None)
    config, revision = options.get("config", place.config), options.get("revision", place.revision)
    return replace(place, config=config, revision=revision)


def _locate(source: str) -> DatasetRef:
    name, at, rest = source.partition("@")
    if name in SOURCES:
        known = SOURCES[name]
        if at and _is_path(rest):
            return DatasetRef(source, known, name, path=Path(rest).expanduser(), config=known.config)
        return DatasetRef(source, known, name, hub=known.hub, config=known.config, revision=rest or None)
    path = Path(source).expanduser()
    if path.exists() or path.suffix.lower() in SUFFIXES:
        return DatasetRef(source, path=path)
    if match := _HUB.fullmatch(source):
        known = next((s for s in SOURCES.values() if s.hub == match["hub"]), _ANY)
        config = match["config"] or known.config
        return DatasetRef(source, known, hub=match["hub"], config=config, revision=match["revision"])
    raise DataError(
        f"cannot find the data {source!r}: no such file, and not one of the known names ({', '.join(SOURCES)}), "
        f"reasoning_gym:TASK or a Hub id org/name.{nearest(source, SOURCES)}"
    )


def _is_path(text: str) -> bool:
    path = Path(text).expanduser()
    return path.exists() or path.suffix.lower() in SUFFIXES or ("/" in text and not text.startswith("refs/"))
