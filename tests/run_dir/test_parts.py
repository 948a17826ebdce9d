"""Parts kept beside an output: found by all that decides them, damage is named, only their own are removed."""

from __future__ import annotations

from pathlib import Path

import pytest

from sieverl import files
from sieverl.run_dir.parts import Parts, digest_of


@pytest.fixture
def said() -> list[str]:
    return []


def of(folder: Path, said: list[str], *keys: str) -> Parts:
    return Parts.of(folder / "out.json", [digest_of(key) for key in keys], said.append)


def read(parts: Parts, number: int) -> object:
    return parts.read(number, lambda value: value)


def test_a_part_is_found_by_its_key_and_place_only(tmp_path: Path, said: list[str]) -> None:
    parts = of(tmp_path, said, "a", "b")
    parts.write(0, {"text": "\ud83d \u202e", "numbers": [0.1, 1e-300]})
    assert read(parts, 0) == {"text": "\ud83d \u202e", "numbers": [0.1, 1e-300]}
    assert (parts.kept(), parts.others(), read(parts, 1)) == ([0], 0, None)
    other = of(tmp_path, said, "b", "a")
    assert (other.kept(), other.others(), read(other, 0)) == ([], 1, None)
    parts.report()
    other.report()
    assert "going on from 1 of 2 parts" in said[0]
    assert "1 parts in" in said[1]
    assert "other settings" in said[1]


def test_every_cut_and_every_flipped_bit_is_named_and_counts_as_missing(tmp_path: Path, said: list[str]) -> None:
    parts = of(tmp_path, said, "a")
    parts.write(0, {"x": [1, 2, 3]})
    path = parts.file(0)
    whole = path.read_bytes()
    harmed = [whole[:n] for n in range(len(whole))]
    harmed += [
        whole[:n] + bytes([whole[n] ^ (1 << bit)]) + whole[n + 1 :] for n in range(len(whole)) for bit in range(8)
    ]
    for number, content in enumerate(harmed, 1):
        path.write_bytes(content)
        assert read(parts, 0) is None
        assert len(said) == number
        assert f"{path} is damaged" in said[-1]


def test_a_part_that_does_not_parse_or_cannot_be_read_is_missing(tmp_path: Path, said: list[str]) -> None:
    parts = of(tmp_path, said, "a", "b")
    parts.write(0, [])
    assert parts.read(0, lambda value: value["x"]) is None
    parts.file(1).mkdir()
    assert read(parts, 1) is None
    assert len(said) == 2


def test_a_part_that_cannot_be_written_does_not_end_the_work(
    tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(operation: str, paths: tuple[Path, ...]) -> None:
        raise OSError(28, "No space left on device")

    parts = of(tmp_path, said, "a", "b")
    parts.write(1, 1)
    monkeypatch.setattr(files, "watchers", [full])
    parts.write(0, 1)
    assert "No space left" in said[0]
    assert read(parts, 0) is None
    parts.remove()
    assert "cannot remove" in said[1]


def test_only_its_own_parts_are_removed(tmp_path: Path, said: list[str]) -> None:
    parts, other = of(tmp_path, said, "a"), of(tmp_path, said, "b")
    parts.write(0, 1)
    other.write(0, 2)
    (parts.folder / f".{parts.file(0).name}.tmp").write_text("half")
    parts.remove()
    assert [path.name for path in parts.folder.iterdir()] == [other.file(0).name]
    other.remove()
    other.remove()
    assert not parts.folder.exists()


def test_a_digest_depends_on_every_value() -> None:
    values = [(), (1,), (1.5,), ("1",), ([1],), ({"a": 1},), ({"a": 2},), (1, 2), ("\ud800",), (None,)]
    assert len({digest_of(*value) for value in values}) == len(values)
