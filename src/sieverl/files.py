"""Durable files: every change of a file that must survive a crash goes through here, one operation at a time.

A file is written aside, flushed to the disk, moved to its place, and the folder's entry is flushed, too. Until the move
the old one is there, from then on the new one.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sieverl.errors import StorageError, UsageError, first_line

Watch = Callable[[str, tuple[Path, ...]], None]
"""Sees the name and the paths of an operation before it happens; an OSError that it raises is that of the disk."""

watchers: list[Watch] = []  # empty but in tests, which record the operations, fail them, or end the process there


def _about_to(operation: str, *paths: Path) -> None:
    for watch in watchers:
        watch(operation, paths)


# --- operations -------------------------------------------------------------------------------------


def make_folder(path: Path) -> None:
    """Make a folder and those above it; their entries are on the disk afterwards."""
    if path.is_dir():
        return
    make_folder(path.parent)
    _about_to("make", path)
    path.mkdir(exist_ok=True)
    sync(path.parent)


def fill(path: Path, write: Callable[[Path], None]) -> None:
    """Have `write` write a file or a folder, by whatever means; nothing of it has to survive before `sync`."""
    _about_to("fill", path)
    write(path)


def sync(path: Path) -> None:
    """Flush a file, or the entries of a folder, to the disk."""
    _about_to("sync", path)
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def move(source: Path, target: Path) -> None:
    """Give a file or folder another name, in one step; a file that has the name is replaced."""
    _about_to("move", source, target)
    os.replace(source, target)


def link(path: Path, target: str) -> None:
    """Make `path` a symbolic link to `target`; one that is there is replaced in one step."""
    aside = path.with_name(f".{path.name}.tmp")
    remove(aside)
    _about_to("link", aside, Path(target))
    aside.symlink_to(target)
    move(aside, path)


def remove(path: Path) -> None:
    """Remove a file, a link or a whole folder, if it is there."""
    if path.is_symlink() or path.exists():
        _about_to("remove", path)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def append(path: Path, text: str) -> None:
    """Add text to a file, flushed to the disk; an error leaves the file as it was."""
    new = not path.exists()
    with path.open("ab") as handle:
        size = handle.tell()
        try:
            _about_to("append", path)
            handle.write(text.encode())
            handle.flush()
            _about_to("sync", path)
            os.fsync(handle.fileno())
        except OSError:
            with suppress(OSError):
                os.ftruncate(handle.fileno(), size)
            raise
    if new:
        sync(path.parent)


# --- what is made of them ---------------------------------------------------------------------------


def atomic_write(path: Path, write: Callable[[Path], None]) -> None:
    """Have `write` write a file beside `path`, and move it there once it is on the disk."""
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        fill(temporary, write)
        sync(temporary)
        move(temporary, path)
    except Exception:  # whatever the writer raises, nothing is left aside
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically: an error leaves the old one."""

    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    atomic_write(path, write)


def write_json(path: Path, value: object) -> None:
    """Write a JSON file atomically: an error leaves the old one."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True) + "\n")


@contextmanager
def storing(what: str, where: Path, needed: int = 0) -> Iterator[None]:
    """Turn an error of the disk into a StorageError that says what could not be written, and how much room it needs.

    `needed` are the bytes that it takes, if known.
    """
    try:
        yield
    except StorageError:
        raise
    except Exception as error:  # safetensors has an exception of its own for what the system says
        if not isinstance(error, OSError) and "os error" not in str(error):
            raise
        room = ""
        with suppress(OSError):
            room = f"; {free_space(where):,.0f} MB are free there"
        room += f", and about {needed / 1e6:,.0f} MB are needed" if needed else ""
        raise StorageError(
            f"cannot write {what} in {where}: {first_line(error)}{room}. What was there is as it was; make room, and "
            "the same command goes on from what was saved"
        ) from error


def free_space(path: Path) -> float:
    """Free megabytes where `path` is, or will be."""
    return shutil.disk_usage(existing_parent(path)).free / 1e6


# --- where files go ---------------------------------------------------------------------------------


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


def user_path(text: str | Path) -> Path:
    """A path, with `~` and `~name` at its start as the home of that user; one that nobody has stays, as in a shell.

    >>> user_path("~nobody-of-this-name/x"), user_path("a/~")
    (PosixPath('~nobody-of-this-name/x'), PosixPath('a/~'))
    """
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)
