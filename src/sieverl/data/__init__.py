"""Prompts with answers that can be checked: where they come from, how the model sees them, in which order they come."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sieverl.data.chat import BOXED_SUFFIX, BOXED_SYSTEM, Template, render
    from sieverl.data.cursor import Cursor
    from sieverl.data.filters import duplicates, overlapping, too_long, unverifiable
    from sieverl.data.pipeline import Report, load_benchmarks, prepare
    from sieverl.data.registry import BENCHMARKS, SOURCES, Source
    from sieverl.data.source import Dropped, Loaded, load_prompts, read

__all__ = [
    "BENCHMARKS",
    "BOXED_SUFFIX",
    "BOXED_SYSTEM",
    "SOURCES",
    "Cursor",
    "Dropped",
    "Loaded",
    "Report",
    "Source",
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

_HOMES = {
    "chat": ("BOXED_SUFFIX", "BOXED_SYSTEM", "Template", "render"),
    "cursor": ("Cursor",),
    "filters": ("duplicates", "overlapping", "too_long", "unverifiable"),
    "pipeline": ("Report", "load_benchmarks", "prepare"),
    "registry": ("BENCHMARKS", "SOURCES", "Source"),
    "source": ("Dropped", "Loaded", "load_prompts", "read"),
}


def __getattr__(name: str) -> Any:
    # Looked up when first used, so that the command's options (sieverl.data.command) do not wait for NumPy.
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"sieverl.data.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
