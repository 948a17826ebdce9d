"""The checkpoints of a run directory, and whether they are complete: a manifest holds the SHA-256 of every file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from sieverl.errors import CheckpointError
from sieverl.types import JsonObject

PREFIX = "step-"


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def steps(directory: Path) -> list[int]:
    """The steps of the checkpoints in a directory, ascending."""
    names = (p.name.removeprefix(PREFIX) for p in directory.glob(f"{PREFIX}*") if p.is_dir())
    return sorted(int(name) for name in names if name.isdigit())


def verify_manifest(path: Path) -> str | None:
    """What is wrong with a checkpoint, or None if every file of its manifest is there with the right hash."""
    try:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "its manifest.json is missing or unreadable"
    for name, expected in manifest.items():
        if not (path / name).is_file():
            return f"{name} is missing"
        if digest(path / name) != expected:
            return f"{name} has changed"
    return None


def newest(directory: Path, must: bool = False) -> Path | None:
    """The newest undamaged checkpoint, or None. Raises a CheckpointError if all are damaged, or none with `must`."""
    faults = []
    for step in reversed(steps(directory)):
        path = directory / f"{PREFIX}{step}"
        fault = verify_manifest(path)
        if fault is None:
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
    """The JSON part of the training state."""
    return dict(json.loads((path / "training.json").read_text(encoding="utf-8")))
