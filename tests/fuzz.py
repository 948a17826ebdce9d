"""Hostile input by the thousand: a command in a sandbox, watched, and the values and harm that hypothesis draws."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hypothesis
import matplotlib
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from sieverl.cli import main
from sieverl.errors import ExitCode
from sieverl.text import printable

SEED = int(os.environ.get("FUZZ_SEED", "0"))  # another one draws other examples
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.symlink", "os.link", "os.truncate", "os.chmod")
CACHES = (
    matplotlib.get_configdir(),
    matplotlib.get_cachedir(),
    f"{tempfile.gettempdir()}/torchinductor_",
)  # libraries'
INSIDE = ("os.remove", "os.rmdir", "os.mkdir")  # their last argument may be the folder that the path is relative to


# --- a command, watched -----------------------------------------------------------------------------


@dataclass
class Written:
    """The paths that this process opened for writing, made, moved or removed while `on`."""

    on: bool = False
    paths: set[str] = field(default_factory=set)

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if self.on and (event in CHANGES or (event == "open" and isinstance(args[2], int) and args[2] & WRITES)):
            folder = args[-1] if event in INSIDE and args[-1] >= 0 else None
            paths = args[:2] if event in ("os.rename", "os.link") else args[1:2] if event == "os.symlink" else args[:1]
            for path in paths:
                if isinstance(path, str | bytes | os.PathLike):
                    at = os.readlink(f"/proc/self/fd/{folder}") if folder is not None else ""
                    self.paths.add(os.path.abspath(os.path.join(at, os.fsdecode(path))))


WRITTEN = Written()
sys.addaudithook(WRITTEN)  # for good: a hook cannot be removed


@dataclass(frozen=True)
class Said:
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str


def run(*arguments: str, may_write: Path) -> Said:
    """Run a command; it must end with a code of `ExitCode` and say why, and write nothing outside `may_write`."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")  # strict, as of a terminal
    err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace")
    WRITTEN.paths, WRITTEN.on = set(), True
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = main(arguments)
            except SystemExit as left:  # of argparse
                code = left.code if isinstance(left.code, int) else -1
    finally:
        WRITTEN.on = False
    out.flush()
    err.flush()
    said = Said(code, *(stream.buffer.getvalue().decode() for stream in (out, err)))
    assert code in set(ExitCode), said
    assert "Traceback" not in said.err, said
    assert said.err == printable(said.err), said
    assert code == 0 or "sieverl" in said.err, said
    outside = {path for path in WRITTEN.paths if not path.startswith((str(may_write), "/dev/null", *CACHES))}
    assert not outside, (outside, said)
    return said


def fuzz(count: int, examples: st.SearchStrategy[Any], check: Callable[[Any], None]) -> None:
    """Run `check` on at least `count` examples, the same ones for the same `FUZZ_SEED`."""
    seen = 0

    @hypothesis.seed(SEED)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],  # the first example that fails is short enough, and a smaller one takes minutes
    )
    @hypothesis.given(examples)
    def each(example: Any) -> None:
        nonlocal seen
        seen += 1
        check(example)

    each()
    assert seen >= count, f"{seen} examples of {count}"


# --- values -----------------------------------------------------------------------------------------

TEXTS = st.one_of(
    st.text(max_size=12),
    st.sampled_from(["", " ", "\0", "\x1b]0;t\x07", "\u202e", "../x", "/", "~", "nan", "1e400", "a" * 300, "\ud800"]),
    st.sampled_from(["[" * 2000, "9" * 5000, "x\ny = 1", "{", '"', "None", "true", "a/b", "a/b/c", "-1", "%s", "{0}"]),
)
NUMBERS = st.one_of(
    st.integers(-3, 3),
    st.sampled_from([2**31, 2**63, -(2**63) - 1, 10**30, 10**400]),
    st.floats(),
    st.sampled_from([0.0, -0.0, 1e308, 1e-320, math.inf, math.nan]),
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=5,
)


# --- harm to a file ---------------------------------------------------------------------------------


def cut(data: bytes, at: float) -> bytes:
    return data[: int(at * len(data))]


def flip(data: bytes, at: float) -> bytes:
    place = min(int(at * len(data)), len(data) - 1)
    return data[:place] + bytes([data[place] ^ 0x41]) + data[place + 1 :] if data else b"\0"


def double(data: bytes, at: float) -> bytes:
    return data[: int(at * len(data))] + data


HARM = (cut, flip, double)
AT = st.floats(0, 1)


@st.composite
def bytes_of(draw: st.DrawFn, data: bytes) -> bytes:
    """What is left of a file's bytes."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.one_of(st.binary(max_size=40), st.sampled_from([b"", b"\0" * 64, b"\xff\xfe", b"[" * 100_000])))
    return draw(st.sampled_from(HARM))(data, draw(AT))


@st.composite
def edited(draw: st.DrawFn, table: Any) -> Any:
    """A copy of nested lists and objects in which one place has another value, or none, or one more."""
    if isinstance(table, dict | list) and table and draw(st.integers(0, 5)):
        keys = list(table) if isinstance(table, dict) else range(len(table))
        key = draw(st.sampled_from(keys))
        out = table.copy()
        if draw(st.integers(0, 6)) == 0:
            del out[key]
        else:
            out[key] = draw(edited(table[key]))
        return out
    if isinstance(table, dict) and draw(st.booleans()):
        return {**table, draw(TEXTS): draw(VALUES)}
    return draw(VALUES)


def as_json(value: Any) -> bytes:
    """As the file has it: NaN and half characters too."""
    return json.dumps(value).encode()


@st.composite
def harmed(draw: st.DrawFn, folder: Path, names: list[str]) -> tuple[str, bytes | None]:
    """A file of `folder` and what becomes of it: other bytes, or None: it is gone."""
    name = draw(st.sampled_from(names))
    data = _content(folder / name)
    if name.endswith(".json") and draw(st.integers(0, 3)):
        return name, as_json(draw(edited(json.loads(data))))
    if name.endswith(".safetensors") and draw(st.integers(0, 3)):
        return name, _header(data, draw(edited(json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]))))
    return name, draw(st.one_of(st.none(), bytes_of(data), bytes_of(data)))


def _header(data: bytes, table: Any) -> bytes:
    """A safetensors file with another header."""
    header = as_json(table)
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[8 + int.from_bytes(data[:8], "little") :]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file and link below a folder with what is in it."""
    return {path.relative_to(folder).as_posix(): _content(path) for path in _walk(folder)}


def _walk(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_symlink() or path.is_file())


def _content(path: Path) -> bytes:
    return os.readlink(path).encode() if path.is_symlink() else path.read_bytes()
