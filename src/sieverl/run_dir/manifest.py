"""The checkpoints of a run directory, and whether they are complete: a manifest holds the SHA-256 of every file.

checkpoints/step-N       a checkpoint
checkpoints/.step-N.tmp  one that is being written: not complete
checkpoints/.step-N.old  one whose place a new one of the same step takes: complete
checkpoints/.step-N.gone one that is being deleted
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from sieverl.errors import CheckpointError
from sieverl.types import JsonObject

PREFIX = "step-"
MANIFEST, STATE = "manifest.json", "training.json"
LARGEST_MANIFEST = 64 << 20  # bytes; a hash a file takes a hundred
Say = Callable[[str], None]


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def steps(directory: Path) -> list[int]:
    """The steps of the checkpoints in a directory, ascending."""
    names = (p.name.removeprefix(PREFIX) for p in directory.glob(f"{PREFIX}*") if p.is_dir())
    return sorted(int(name) for name in names if name.isdigit() and name.isascii())


def step_of(checkpoint: Path) -> int:
    """The step of a checkpoint's folder.

    >>> step_of(Path("checkpoints/step-50")), step_of(Path("checkpoints/.step-50.old"))
    (50, 50)
    """
    return int(checkpoint.name.strip(".").removeprefix(PREFIX).removesuffix(".old"))


def replaced(directory: Path, step: int) -> Path:
    """Where the checkpoint of a step is while a new one of the same step takes its place."""
    return directory / f".{PREFIX}{step}.old"


def _candidates(directory: Path) -> Iterator[Path]:
    """What may be a checkpoint, newest first; one that is being replaced comes after the one that replaces it."""
    aside = (p.name.removeprefix(f".{PREFIX}").removesuffix(".old") for p in directory.glob(f".{PREFIX}*.old"))
    found = {*steps(directory), *(int(name) for name in aside if name.isdigit() and name.isascii())}
    for step in sorted(found, reverse=True):
        yield from (path for path in (directory / f"{PREFIX}{step}", replaced(directory, step)) if path.is_dir())


def read_manifest(path: Path) -> dict[str, str] | None:
    """The hashes of a checkpoint's files, or None where its manifest is none."""
    file = path / MANIFEST
    try:
        if not file.is_file() or file.stat().st_size > LARGEST_MANIFEST:  # a pipe would never end
            return None
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    texts = isinstance(found, dict) and all(isinstance(x, str) for x in found.values())
    return found if texts and STATE in found else None


def verify_manifest(path: Path) -> str | None:
    """What is wrong with a checkpoint, or None if its files are those of its manifest, with the right hashes.

    Notes (`*.md`) and hidden files beside them are nobody's business.
    """
    manifest = read_manifest(path)
    if manifest is None:
        return f"its {MANIFEST} is missing or unreadable"
    for name, expected in manifest.items():
        if "\0" in name or ".." in PurePosixPath(name).parts or PurePosixPath(name).is_absolute():
            return f"its {MANIFEST} names {name[:80]!r}, which is not in it"
        file = path / name
        if file.is_symlink() or not file.is_file():
            return f"{name} is missing"
        if digest(file) != expected:
            return f"{name} has changed"
    for file in sorted(path.rglob("*")):
        name = str(file.relative_to(path))
        if name not in (*manifest, MANIFEST) and not file.is_dir() and not _is_note(file):
            return f"{name} is not in its {MANIFEST}"
    return None


def _is_note(file: Path) -> bool:
    return file.suffix == ".md" or file.name.startswith(".")


def newest(directory: Path, must: bool = False, say: Say = lambda text: None) -> Path | None:
    """The newest undamaged checkpoint, or None; `say` is told which are passed over, and why.

    Raises a CheckpointError if all are damaged, or none with `must`.
    """
    faults: list[str] = []
    for path in _candidates(directory):
        fault = verify_manifest(path)
        if fault is None:
            for passed in faults:
                say(f"passed over a damaged checkpoint in {directory}: {passed}")
            return path
        faults.append(f"{path.name}: {fault}")
    if faults:
        raise CheckpointError(
            f"no checkpoint in {directory} can be resumed ({'; '.join(faults)}); restore one, or start in another "
            "--run-dir (or with --resume never)"
        )
    if must:
        raise CheckpointError(f"there is no checkpoint in {directory}, and --resume must asks for one")
    return None


def load_state(path: Path) -> JsonObject:
    """The JSON part of the training state. Raises a CheckpointError where it is none."""
    try:
        return dict(json.loads((path / STATE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path / STATE} is not the state of a run: {error}") from error
