"""The lock file that `make setup` installs: all that pyproject.toml asks for, in its range, with hashes."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib

from conftest import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LOCK = (ROOT / "requirements" / "ci.txt").read_text()
OWN = {"torch", "sieverl"}  # by its range after the lock, since its builds differ; this package itself


def locked() -> dict[str, list[tuple[Requirement, int]]]:
    """By name: each line of the lock file and its number of hashes."""
    found: dict[str, list[tuple[Requirement, int]]] = {}
    for block in re.split(r"\n(?=\S)", LOCK):
        if not block.startswith("#"):
            line = Requirement(block.partition(" \\\n")[0])
            hashes = re.findall(r"--hash=sha256:[0-9a-f]{64}(?= |$)", block, re.MULTILINE)
            found.setdefault(canonicalize_name(line.name), []).append((line, len(hashes)))
    return found


def asked() -> list[Requirement]:
    """What pyproject.toml asks for, the extras that the tests need included."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    return [Requirement(text) for text in (*project["dependencies"], *extras["ray"], *extras["dev"])]


def test_every_dependency_is_locked_in_its_range() -> None:
    found = locked()
    for requirement in asked():
        if requirement.name not in OWN:
            lines = found.get(canonicalize_name(requirement.name))
            assert lines, f"{requirement.name} is not locked; run `make lock`"
            for line, _ in lines:
                (pin,) = line.specifier
                assert requirement.specifier.contains(pin.version), f"{line} is not {requirement}; run `make lock`"


def test_every_line_is_one_version_with_hashes_and_names_no_place() -> None:
    found = locked()
    assert len(found) > 90
    for lines in found.values():
        for line, hashes in lines:
            assert [pin.operator for pin in line.specifier] == ["=="], line
            assert hashes > 0, line
    assert "://" not in LOCK
    assert not re.search(r"--(index|extra|find)|(^|\s)/", LOCK)
    assert not [name for name in found if name in OWN or re.match("nvidia|cuda|triton", name)]


def test_what_pytorch_needs_beside_its_gpu_libraries_is_locked() -> None:
    """Else `make setup` would take that without a hash."""
    needs = [Requirement(text) for text in importlib.metadata.requires("torch") or ()]
    here = [n.name for n in needs if n.marker is None or n.marker.evaluate({"extra": ""})]
    assert {canonicalize_name(name) for name in here if not re.match("nvidia|cuda|triton", name)} <= locked().keys()
