"""Python files of the user's: neighbours, mistakes, two files of one name."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sieverl.userfile import load_file


@pytest.fixture(autouse=True)
def clean_imports() -> Iterator[None]:
    """Modules and search path as before."""
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def write(path: Path, text: str) -> str:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return str(path)


def test_a_file_and_the_files_beside_it(tmp_path: Path) -> None:
    write(tmp_path / "helper_of_mine.py", "def double(x):\n    return 2 * x\n")
    module = load_file(write(tmp_path / "mine.py", "from helper_of_mine import double\nfour = double(2)\n"))
    assert module.four == 4
    assert module.__file__ == str(tmp_path / "mine.py")


def test_files_beside_it_hide_no_installed_package(tmp_path: Path) -> None:
    """The folder comes last in the search path: a json.py of the user's is not the json of everything else."""
    write(tmp_path / "colorsys.py", "mine = True\n")
    module = load_file(write(tmp_path / "mine.py", "import colorsys\nfound = hasattr(colorsys, 'mine')\n"))
    assert module.found is False


def test_paths_from_home_and_relative_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "mine.py", "value = 3\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_file("~/mine.py").value == 3
    monkeypatch.chdir(tmp_path)
    assert load_file("mine.py").value == 3


def test_a_dataclass_and_its_postponed_annotations(tmp_path: Path) -> None:
    """`dataclasses` looks the module up by its name while the file still runs."""
    text = "from __future__ import annotations\nfrom dataclasses import dataclass\n"
    module = load_file(write(tmp_path / "mine.py", text + "@dataclass\nclass Scale:\n    by: float = 2.0\n"))
    assert module.Scale().by == 2.0


@pytest.mark.parametrize(
    ("text", "kind"), [("1 / 0\n", ZeroDivisionError), ("1 +\n", SyntaxError), ("import no_such_module\n", ImportError)]
)
def test_what_the_file_raises_is_raised(tmp_path: Path, text: str, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        load_file(write(tmp_path / "mine.py", text))
    write(tmp_path / "mine.py", "value = 'repaired'\n")
    assert load_file(str(tmp_path / "mine.py")).value == "repaired", "it is read anew"


@pytest.mark.parametrize("name", ["none.py", "none.txt"])
def test_a_missing_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileNotFoundError):
        load_file(str(tmp_path / name))


def test_the_same_file_name_in_two_folders(tmp_path: Path) -> None:
    text = "value = {}\ndef read():\n    return value\n"
    first = load_file(write(tmp_path / "a" / "mine.py", text.format(1)))
    second = load_file(write(tmp_path / "b" / "mine.py", text.format(2)))
    assert (first.read(), second.read()) == (1, 2)
