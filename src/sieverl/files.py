"""Atomic writes, and whether a path can be written."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from sieverl.errors import UsageError


def atomic_write(path: Path, write: Callable[[Path], None]) -> None:
    """Call `write` with a temporary path beside `path`, flush it to disk, and move it into place in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        write(temporary)
        sync(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def existing_parent(path: Path) -> Path:
    """The absolute path itself, or the nearest folder above it that is there."""
    parent = path.absolute()
    while not parent.exists():
        parent = parent.parent
    return parent


def check_writable(path: Path, what: str, option: str) -> None:
    """Raise a UsageError unless `path` can be written; `what` it is and the `option` to change are for the message."""
    parent = existing_parent(path)
    try:
        if not parent.is_dir():
            raise NotADirectoryError(f"{parent} is a file")
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError as error:
        raise UsageError(f"cannot write {what} {path}: {error}; choose another {option}") from error


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically: an error leaves the old one."""

    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    atomic_write(path, write)


def write_json(path: Path, value: object) -> None:
    """Write a JSON file atomically: an error leaves the old one."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True) + "\n")


def sync(path: Path) -> None:
    """Flush a file or directory to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
