"""The shape of the house: imports point down the data flow, public names are pinned, errors carry exit codes."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest
from conftest import ROOT

import sieverl
from sieverl import errors

# Rooms from the ground up: a module imports from its own floor or below, never from above.
FLOORS = [
    ["errors", "types", "files", "shapes", "userfile", "families"],
    [
        "credit",
        "objective",
        "algorithm",
        "algorithms",
        "axes",
        "trial",
        "recipe",
        "distributed",
        "parallel",
        "data",
        "verify",
        "metrics",
    ],
    ["attention", "norm", "model", "model_files", "load_policy", "packing", "critic", "optimizer", "rollout"],
    ["learner", "gather", "evaluate", "benchmark", "checkpoint"],
    ["loop"],
    ["setup", "console", "plot", "listing"],
    ["demo", "doctor", "loading", "results", "eval_command"],
    ["cli", "__main__", "__init__"],
]
LEVEL = {name: level for level, names in enumerate(FLOORS) for name in names}


def modules():
    package = ROOT / "src" / "sieverl"
    for path in sorted(package.rglob("*.py")):
        yield path.relative_to(package).parts[0].removesuffix(".py"), path


def imported(path):
    """Names of sieverl modules imported anywhere in a file, those for type checking only left out."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module == "sieverl":
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sieverl."):
            names = [node.module.split(".")[1]]
        yield from names


def test_imports_point_down_the_data_flow():
    wrong = []
    for room, path in modules():
        assert room in LEVEL, f"{path} stands on no floor: add it to FLOORS"
        wrong += [f"{path.name} imports {name}" for name in imported(path) if LEVEL.get(name, 99) > LEVEL[room]]
    assert not wrong


def test_files_stay_small():
    lengths = {path.name: len(path.read_text().splitlines()) for _, path in modules()}
    assert not {name: n for name, n in lengths.items() if n > 350}


def test_public_names():
    expected = "__version__ Algorithm Critic Draw Penalty Responses Status Tokens Verdict get_algorithm"
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
