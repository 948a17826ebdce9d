"""The shape of the house: imports point down the data flow, public names are pinned, the wheel is whole."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT
from house import circles, imports, reached, rooms

import sieverl

PACKAGE = ROOT / "src" / "sieverl"
GRAPH = imports(PACKAGE)


def test_no_files_and_no_rooms_import_each_other_in_a_circle() -> None:
    assert not circles(GRAPH)
    assert not circles(rooms(GRAPH)), "an arrow upwards: what a room imports imports that room"


def test_the_graph_sees_imports_of_every_kind(tmp_path: Path) -> None:
    """Else the tests here could not fail."""
    package = tmp_path / "p"
    (package / "low").mkdir(parents=True)
    (package / "low" / "__init__.py").write_text("")
    (package / "low" / "a.py").write_text("from p import top")
    (package / "low" / "b.py").write_text("def f():\n    import p.low.a")
    (package / "top.py").write_text("if TYPE_CHECKING:\n    from p.low import b\nfrom p.low.b import f")
    (package / "__init__.py").write_text("")
    graph = imports(package)
    assert graph["p.low.b"] == {"p.low.a"}
    assert circles(graph) == {("p.low.a", "p.low.b", "p.top")}
    assert circles(rooms(graph)) == {("p.low", "p.top")}


@pytest.mark.parametrize(
    ("room", "stranger"),
    [
        ("engines", "verify"),
        ("engines", "algorithms"),
        ("model", "algorithms"),
        ("model", "learner"),
        ("display", "training"),
        ("algorithms", "model"),
        ("verify", "engines"),
    ],
)
def test_a_room_knows_nothing_of_another(room: str, stranger: str) -> None:
    files = [name for name in GRAPH if name.startswith(f"sieverl.{room}.")]
    assert files
    wrong = {name: found for name in files if (found := {m for m in reached(name, GRAPH) if f".{stranger}" in m})}
    assert not wrong


def test_files_stay_small_and_few_stand_in_the_package_itself() -> None:
    lengths = {str(path): len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py")}
    assert not {name: n for name, n in lengths.items() if n > 330}
    assert len(list(PACKAGE.glob("*.py"))) <= 10


def test_tests_mirror_the_rooms() -> None:
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and any(path.glob("[a-z]*.py"))}
    tested = {path.parent.name for path in (ROOT / "tests").glob("*/test_*.py")}
    assert tested == folders, "a room without tests, or tests without a room"


def test_public_names() -> None:
    expected = "__version__ Algorithm Critic DynamicSampling Penalty Recipe Responses Status "
    expected += "Tokens TrainedRun Verdict evaluate from_trl from_verl get_algorithm load_run train"
    assert sieverl.__all__ == expected.split()
    for name in sieverl.__all__:
        assert getattr(sieverl, name) is not None
    assert sieverl.Draw is sieverl.DynamicSampling, "an old name still works"
    with pytest.raises(AttributeError, match="public names are"):
        _ = sieverl.nothing


def test_import_and_help_load_nothing_heavy() -> None:
    script = (
        "import sys, sieverl.cli\n"
        "from sieverl.commands.parser import build_parser; build_parser([]).format_help()\n"
        "print([m for m in ('torch', 'transformers', 'datasets', 'pyarrow', 'pydantic', 'numpy') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built from a copy of the sources by setuptools itself, which needs no network."""
    copy = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    shutil.copytree(ROOT / "src", copy / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    script = "import setuptools.build_meta as backend; print(backend.build_wheel('.'))"
    built = subprocess.run([sys.executable, "-c", script], cwd=copy, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return zipfile.ZipFile(copy / built.stdout.splitlines()[-1])


def test_wheel_has_what_it_needs(wheel: zipfile.ZipFile) -> None:
    inside = {name for name in wheel.namelist() if not name.startswith("sieverl-")}
    files = {p for p in PACKAGE.rglob("*") if p.is_file() and "__pycache__" not in p.parts}
    assert inside == {p.relative_to(PACKAGE.parent).as_posix() for p in files}, "every file of the package, no other"
    assert {"sieverl/py.typed", "sieverl/assets/recipes/demo.toml", "sieverl/assets/base/model.safetensors"} <= inside
    for name in ("sieverl/assets/base/model.safetensors", "sieverl/assets/base/tokenizer.json"):
        assert wheel.getinfo(name).file_size == (PACKAGE.parent / name).stat().st_size
    assert sum(wheel.getinfo(name).file_size for name in inside if "/assets/base/" in name) < 10e6


def test_wheel_says_its_version_licence_and_command(wheel: zipfile.ZipFile) -> None:
    about = f"sieverl-{sieverl.__version__}.dist-info"
    assert wheel.read(f"{about}/licenses/LICENSE").decode().lstrip().startswith("Apache License")
    metadata = wheel.read(f"{about}/METADATA").decode().splitlines()
    assert {"Name: sieverl", f"Version: {sieverl.__version__}", "License-Expression: Apache-2.0"} <= set(metadata)
    assert [line for line in metadata if line.startswith("Provides-Extra")] == [
        f"Provides-Extra: {extra}"
        for extra in ("ray", "quantization", "vllm", "tensorboard", "wandb", "trackio", "mlflow", "docs", "dev")
    ]
    assert "sieverl = sieverl.__main__:main" in wheel.read(f"{about}/entry_points.txt").decode()
