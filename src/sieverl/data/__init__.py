"""Prompts with gold answers: load them, filter them, render them to token ids, and take them in a shuffled order."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sieverl.data.catalog import BENCHMARKS, SOURCES, DatasetSpec
    from sieverl.data.chat import BOXED_SUFFIX, BOXED_SYSTEM, Template, render
    from sieverl.data.cursor import Cursor
    from sieverl.data.filters import duplicates, overlapping, too_long, unverifiable
    from sieverl.data.preparation import Report, load_benchmarks, prepare
    from sieverl.data.rows import Dropped
    from sieverl.data.source import Loaded, load_prompts, read


__all__ = [
    "BENCHMARKS",
    "BOXED_SUFFIX",
    "BOXED_SYSTEM",
    "SOURCES",
    "Cursor",
    "DatasetSpec",
    "Dropped",
    "Loaded",
    "Report",
    "Template",
    "duplicates",
    "load_benchmarks",
    "load_prompts",
    "overlapping",
    "prepare",
    "read",
    "render",
    "too_long",
    "unverifiable",
]
_MODULES = {
    "chat": ("BOXED_SUFFIX", "BOXED_SYSTEM", "Template", "render"),
    "cursor": ("Cursor",),
    "filters": ("duplicates", "overlapping", "too_long", "unverifiable"),
    "preparation": ("Report", "load_benchmarks", "prepare"),
    "catalog": ("BENCHMARKS", "SOURCES", "DatasetSpec"),
    "rows": ("Dropped",),
    "source": ("Loaded", "load_prompts", "read"),
}


def __getattr__(name: str) -> object:
    # Imported on first use, so that `sieverl data --help` does not wait for NumPy.
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"sieverl.data.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
