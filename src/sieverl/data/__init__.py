"""Prompts with answers that can be checked: where they come from, how the model sees them, in which order they come."""

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
