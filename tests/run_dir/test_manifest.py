"""Which checkpoints there are, and which of them are whole."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from sieverl.errors import CheckpointError
from sieverl.run_dir.manifest import digest, load_state, newest, replaced, steps, verify_manifest


def checkpoint(folder: Path, step: int, **files: str) -> Path:
    """A whole checkpoint of these files."""
    path = folder / f"step-{step}"
    path.mkdir(parents=True)
    files = {"training.json": "{}", **(files or {"weights": f"weights of {step}"})}
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


@pytest.mark.parametrize("text", ["{}", "[]", "[" * 100_000, '{"training.json": 1}', '"training.json"', "null", "\0"])
def test_i12_a_manifest_that_is_none(tmp_path: Path, text: str) -> None:
    path = checkpoint(tmp_path, 1)
    (path / "manifest.json").write_text(text)
    assert verify_manifest(path) == "its manifest.json is missing or unreadable"


@pytest.mark.parametrize("name", ["../step-2/weights", "/etc/hostname", "a/../../step-2/weights", "a\0b"])
def test_i12_names_outside_the_checkpoint(tmp_path: Path, name: str) -> None:
    path, other = checkpoint(tmp_path, 1), checkpoint(tmp_path, 2)
    hashes = json.loads((path / "manifest.json").read_text()) | {name: digest(other / "weights")}
    (path / "manifest.json").write_text(json.dumps(hashes))
    assert "which is not in it" in str(verify_manifest(path))


def test_i12_a_pipe_does_not_hang(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, 1)
    (path / "weights").unlink()
    os.mkfifo(path / "weights")
    assert verify_manifest(path) == "weights is missing"
    (path / "manifest.json").unlink()
    os.mkfifo(path / "manifest.json")
    assert verify_manifest(path) == "its manifest.json is missing or unreadable"


def test_a_link_in_the_place_of_a_file_counts_as_missing(tmp_path: Path) -> None:
    path, other = checkpoint(tmp_path, 1, weights="w"), checkpoint(tmp_path, 2, weights="w")
    (path / "weights").unlink()
    (path / "weights").symlink_to(other / "weights")
    assert verify_manifest(path) == "weights is missing"


def test_what_does_not_belong_there(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, 1)
    for harmless in ("README.md", ".DS_Store"):
        (path / harmless).touch()
    assert verify_manifest(path) is None
    (path / "adapter_config.json").touch()
    assert verify_manifest(path) == "adapter_config.json is not in its manifest.json"


def test_one_whose_place_was_being_taken_is_found(tmp_path: Path) -> None:
    checkpoint(tmp_path, 1)
    old = checkpoint(tmp_path, 2).rename(replaced(tmp_path, 2))
    assert newest(tmp_path) == old
    new = checkpoint(tmp_path, 2)
    assert newest(tmp_path) == new
    (new / "weights").write_text("damaged")
    said: list[str] = []
    assert newest(tmp_path, say=said.append) == old
    assert said == [f"passed over a damaged checkpoint in {tmp_path}: step-2: weights has changed"]


@pytest.mark.parametrize("state", ["[1]", "{", "7"])
def test_i12_a_state_that_is_none(tmp_path: Path, state: str) -> None:
    with pytest.raises(CheckpointError, match=r"training\.json is not the state of a run"):
        load_state(checkpoint(tmp_path, 1, **{"training.json": state}))


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
