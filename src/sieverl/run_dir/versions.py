"""Versions of what is installed."""

from __future__ import annotations

import importlib.metadata
import platform

PACKAGES = ("sieverl", "torch", "transformers", "tokenizers", "math-verify", "reasoning-gym")


def versions() -> dict[str, str | None]:
    """What is installed."""
    return {"python": platform.python_version(), **{package: version(package) for package in PACKAGES}}


def version(package: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
