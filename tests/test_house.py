"""The shape of the house: imports point down the data flow, public names are pinned, errors carry exit codes."""

from __future__ import annotations

import subprocess
import sys

import pytest
from conftest import ROOT
from house import circles, imports, reached, rooms

import sieverl
from sieverl import errors

PACKAGE = ROOT / "src" / "sieverl"
GRAPH = imports(PACKAGE)


def test_no_files_and_no_rooms_import_each_other_in_a_circle():
    assert not circles(GRAPH)
    assert not circles(rooms(GRAPH)), "an arrow upwards: what a room imports imports that room"


def test_the_graph_sees_imports_of_every_kind(tmp_path):
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
def test_a_room_knows_nothing_of_another(room, stranger):
    files = [name for name in GRAPH if name.startswith(f"sieverl.{room}.")]
    assert files
    wrong = {name: found for name in files if (found := {m for m in reached(name, GRAPH) if f".{stranger}" in m})}
    assert not wrong


def test_files_stay_small_and_few_stand_in_the_package_itself():
    lengths = {str(path): len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py")}
    assert not {name: n for name, n in lengths.items() if n > 330}
    assert len(list(PACKAGE.glob("*.py"))) <= 10


def test_tests_mirror_the_rooms():
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and any(path.glob("[a-z]*.py"))}
    tested = {path.parent.name for path in (ROOT / "tests").glob("*/test_*.py")}
    assert folders - tested <= {"assets", "distributed", "rollout", "run_dir", "display"}, "rooms without tests"
    assert tested <= folders, "tests without a room"


def test_public_names():
    expected = "__version__ Algorithm Critic DynamicSampling Penalty Responses Status Tokens Verdict get_algorithm"
    assert sieverl.__all__ == expected.split()
    for name in sieverl.__all__:
        assert getattr(sieverl, name) is not None
    with pytest.raises(AttributeError, match="public names are"):
        _ = sieverl.nothing


def test_exit_codes():
    codes = {kind.__name__: kind.exit_code for kind in (errors.UsageError, errors.DataError, errors.CheckpointError)}
    assert codes == {"UsageError": 2, "DataError": 3, "CheckpointError": 4}
    assert errors.Alarm.exit_code == 5


def test_import_and_help_load_nothing_heavy():
    script = (
        "import sys, sieverl.cli\n"
        "sieverl.cli.build_parser().format_help()\n"
        "print([m for m in ('torch', 'transformers', 'datasets', 'pyarrow', 'pydantic') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_wheel_has_what_it_needs():
    assert (ROOT / "src" / "sieverl" / "py.typed").exists()
    assert (ROOT / "LICENSE").read_text().lstrip().startswith("Apache License")
