"""Damage to the files of a checkpoint, all of which its manifest must show."""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from sieverl.run_dir import manifest


def seal(checkpoint: Path) -> None:
    """A manifest of the files as they are."""
    files = [path for path in checkpoint.rglob("*") if path.is_file() and path.name != manifest.MANIFEST]
    hashes = {path.relative_to(checkpoint).as_posix(): manifest.digest(path) for path in files}
    (checkpoint / manifest.MANIFEST).write_text(json.dumps(hashes, indent=2))


def flip_a_bit(file: Path, chance: random.Random) -> None:
    place = chance.randrange(file.stat().st_size)
    with file.open("r+b") as handle:
        handle.seek(place)
        byte = handle.read(1)[0] ^ (1 << chance.randrange(8))
        handle.seek(place)
        handle.write(bytes([byte]))


def cut_off(file: Path, chance: random.Random) -> None:
    with file.open("r+b") as handle:
        handle.truncate(chance.randrange(file.stat().st_size))


def lose(file: Path, chance: random.Random) -> None:
    file.unlink()


def of_another_step(file: Path, chance: random.Random) -> None:
    """The file of that name of another step, if it has one: before the first update there is less to save."""
    other = Path(str(file).replace("step-2", "step-1"))
    if other.exists():
        shutil.copyfile(other, file)


def of_another_rank(file: Path, chance: random.Random) -> None:
    """Another file of the same folder, if there is one."""
    others = [path for path in sorted(file.parent.iterdir()) if path.is_file() and path != file]
    if others:
        shutil.copyfile(chance.choice(others), file)


HARM: list[Callable[[Path, random.Random], None]] = [
    flip_a_bit,
    flip_a_bit,
    cut_off,
    lose,
    of_another_step,
    of_another_rank,
]


def harm_all(checkpoints: Path, directory: Path, times: int) -> Counter[str]:
    """Harm a copy of the second of two checkpoints so often; all must be found. How often each file was harmed."""
    chance, harmed = random.Random(0), Counter[str]()
    for name in ("step-1", "step-2"):
        for file in (path for path in (checkpoints / name).rglob("*") if path.is_file()):
            copy = directory / file.relative_to(checkpoints)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes()[-5000:])  # what it is does not matter
        seal(directory / name)
    path = directory / "step-2"
    files = [file for file in sorted(path.rglob("*")) if file.is_file()]
    while harmed.total() < times:
        file, harm = chance.choice(files), chance.choice(HARM)
        before = file.read_bytes()
        harm(file, chance)
        if not file.exists() or file.read_bytes() != before:
            harmed[file.relative_to(path).as_posix()] += 1
            assert manifest.verify_manifest(path) is not None, (harm.__name__, file.name)
        file.write_bytes(before)
    assert manifest.verify_manifest(path) is None
    return harmed
