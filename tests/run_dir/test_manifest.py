"""Which checkpoints there are, and which of them are whole."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from sieverl.errors import CheckpointError
from sieverl.run_dir.manifest import digest, load_state, newest, steps, verify_manifest


def checkpoint(folder: Path, step: int, **files: str) -> Path:
    """A whole checkpoint of these files."""
    path = folder / f"step-{step}"
    path.mkdir(parents=True)
    files = files or {"weights": f"weights of {step}"}
    for name, text in files.items():
        (path / name).write_text(text)
    manifest = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in files.items()}
    (path / "manifest.json").write_text(json.dumps(manifest))
    return path


def test_digest_is_sha256(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert digest(tmp_path / "empty") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_steps_are_sorted_as_numbers_and_everything_else_is_passed_over(tmp_path: Path) -> None:
    for name in ("step-10", "step-9", "step-", "step-x", "latest", ".step-11.tmp"):
        (tmp_path / name).mkdir()
    (tmp_path / "step-12").touch()
    assert steps(tmp_path) == [9, 10]
    assert steps(tmp_path / "none") == []


def test_what_is_wrong_with_a_checkpoint(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, 1, weights="w", tokenizer="t")
    assert verify_manifest(path) is None
    (path / "weights").write_text("v")
    assert verify_manifest(path) == "weights has changed"
    (path / "weights").unlink()
    assert verify_manifest(path) == "weights is missing"
    for text in ("{", ""):
        (path / "manifest.json").write_text(text)
        assert verify_manifest(path) == "its manifest.json is missing or unreadable"
    (path / "manifest.json").unlink()
    assert verify_manifest(path) == "its manifest.json is missing or unreadable"


def test_the_newest_whole_checkpoint_is_taken(tmp_path: Path) -> None:
    assert newest(tmp_path) is None
    old, new = checkpoint(tmp_path, 9), checkpoint(tmp_path, 10)
    assert newest(tmp_path) == new
    (new / "weights").write_text("damaged")
    assert newest(tmp_path) == old
    (old / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match=r"step-10: weights has changed; step-9: its manifest\.json is missing"):
        newest(tmp_path)
    with pytest.raises(CheckpointError, match="--resume must asks for one"):
        newest(tmp_path / "none", must=True)


def test_the_state_beside_the_weights(tmp_path: Path) -> None:
    state = {"step": 3, "cursor": {"epoch": 0, "index": 5}}
    assert load_state(checkpoint(tmp_path, 3, **{"training.json": json.dumps(state)})) == state
