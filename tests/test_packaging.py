"""What is published: the wheel works by itself in an empty environment, and the files around it are valid."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT

import sieverl
from sieverl.recipe.shipped import shipped

PACKAGE = ROOT / "src" / "sieverl"
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
SOURCES = ("pyproject.toml", "MANIFEST.in", "README.md", "CHANGELOG.md", "CITATION.cff", "LICENSE")
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
WORKFLOW: dict[Any, Any] = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


def run(*command: str | Path, cwd: Path, env: dict[str, str] | None = None) -> str:
    """The standard output of a command, which must succeed."""
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=env, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
    return done.stdout


# --- the wheel and the sdist --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sdist of a copy of the sources, in which Python, editors and macOS have left files, and the wheel from it."""
    copy, out = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("dist")
    for name in SOURCES:
        shutil.copy(ROOT / name, copy)
    shutil.copytree(ROOT / "src", copy / "src", ignore=shutil.ignore_patterns("*.egg-info"))
    (copy / "tests").mkdir()
    (copy / "tests" / "test_one.py").write_text("")
    for folder in (copy / "src/sieverl/assets", copy / "src/sieverl/assets/recipes"):
        (folder / "__pycache__").mkdir(exist_ok=True)
        for stray in ("__pycache__/a.cpython-311.pyc", ".DS_Store", "paper.toml~"):
            (folder / stray).write_text("")
    backend = "import sys, setuptools.build_meta as b; print(b.build_{}(sys.argv[1]))"
    sdist = out / run(sys.executable, "-c", backend.format("sdist"), out, cwd=copy).splitlines()[-1]
    unpacked = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(unpacked, filter="data")
    inside = unpacked / sdist.name.removesuffix(".tar.gz")
    wheel = out / run(sys.executable, "-c", backend.format("wheel"), out, cwd=inside).splitlines()[-1]
    return sdist, wheel


def test_the_wheel_made_from_the_sdist_has_every_file_of_the_package_and_no_other(built: tuple[Path, Path]) -> None:
    sdist, wheel = built
    files = {p for p in PACKAGE.rglob("*") if p.is_file() and "__pycache__" not in p.parts and p.name[0] != "."}
    expected = {p.relative_to(PACKAGE.parent).as_posix() for p in files}
    names = {name for name in zipfile.ZipFile(wheel).namelist() if not name.startswith("sieverl-")}
    assert names == expected
    for kind in (".css", ".j2", ".js", ".woff2", "py.typed", "assets/base/model.safetensors"):
        assert any(name.endswith(kind) for name in names)
    assert {f"sieverl/assets/recipes/{name}.toml" for name in shipped()} <= names
    with tarfile.open(sdist) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    assert {f"src/{name}" for name in expected} | set(SOURCES) <= packed
    assert not [name for name in packed if re.search(r"^tests|\.git|__pycache__|\.pyc|DS_Store|~$", name)]


def test_the_version_stands_in_one_place(built: tuple[Path, Path]) -> None:
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "sieverl.__version__"}
    assert [path.name for path in built] == [
        f"sieverl-{sieverl.__version__}.tar.gz",
        f"sieverl-{sieverl.__version__}-py3-none-any.whl",
    ]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == sieverl.__version__
    changes = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert changes[0] == "Unreleased" or changes[0].startswith(sieverl.__version__)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_an_installed_wheel_runs_in_an_empty_environment_and_folder(built: tuple[Path, Path], tmp_path: Path) -> None:
    """As a user does it: `pip install sieverl` into a new environment, then the first commands."""
    pip = (tmp_path / "venv" / "bin" / "python", "-m", "pip", "install", "--quiet", "--retries", "1")
    empty = tmp_path / "empty"
    empty.mkdir()
    env = {name: text for name, text in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    env["PATH"] = os.pathsep.join([str(tmp_path / "venv" / "bin"), "/usr/bin", "/bin"])
    run(sys.executable, "-m", "venv", tmp_path / "venv", cwd=empty, env=env)
    # the build of PyTorch that this environment has: the default one for Linux would bring gigabytes for GPUs
    torch = f"torch=={importlib.metadata.version('torch')}"
    command = [*map(str, pip), "--extra-index-url", CPU_INDEX, torch]
    if subprocess.run(command, cwd=empty, env=env, capture_output=True).returncode:
        pytest.skip(f"{torch} cannot be had from a package index here")
    run(*pip, "--constraint", constraints(tmp_path), built[1], cwd=empty, env=env)
    run(*pip[:3], "check", cwd=empty, env=env)

    def sieverl_(*arguments: str) -> str:
        return run(tmp_path / "venv" / "bin" / "sieverl", *arguments, cwd=empty, env=env)

    assert sieverl_("--version") == f"sieverl {sieverl.__version__}\n"
    said = sieverl_("demo", "--steps", "2", "--evaluate.limit", "8", "--display", "plain")
    assert "run directory: runs/demo-1" in said
    assert "  sieverl view runs/demo-1" in said, "a command that can be typed here"
    assert "avg@2" in sieverl_("eval", "--model", "runs/demo-1", "--benchmark", "demo", "--limit", "4", "-k", "2")
    assert "gsm8k" in sieverl_("recipes")
    small = ("--rollout.prompts", "2", "--rollout.samples", "2", "--display", "none")
    sieverl_("train", "graded_format", "--steps", "1", *small)
    sieverl_("report", "runs/demo-1", "runs/graded_format", "--output", "both.html")
    assert sorted(path.name for path in empty.iterdir() if path.name[0] != ".") == ["both.html", "runs"]


def constraints(folder: Path) -> Path:
    """The versions of the lock file: what was tried, and what `make setup` has downloaded already."""
    lines = re.findall(
        r"^[\w.-]+==[^ \\]+(?: ; [^\\\n]+)?", (ROOT / "requirements" / "ci.txt").read_text(), re.MULTILINE
    )
    file = folder / "constraints.txt"
    file.write_text("\n".join(lines) + "\n")
    return file


# --- the files around it ------------------------------------------------------------------------------


def schema(name: str, *files: Path) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{name}", *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_citation_workflow_and_issue_forms_are_what_their_readers_take() -> None:
    pytest.importorskip("check_jsonschema")
    schema("citation-file-format", ROOT / "CITATION.cff")
    schema("github-workflows", *sorted((ROOT / ".github" / "workflows").glob("*.yml")))
    schema("github-issue-forms", *[form for form in FORMS if form.name != "config.yml"])
    schema("github-issue-config", *[form for form in FORMS if form.name == "config.yml"])


def test_hosted_ci_calls_the_make_targets_on_every_python_that_is_promised() -> None:
    steps = [step["run"] for job in WORKFLOW["jobs"].values() for step in job["steps"] if "run" in step]
    made = re.findall(r"^make ([\w-]+)", "\n".join(steps), re.MULTILINE)
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(made) == {"setup", "test", "test-slow"} <= set(targets)
    assert all(step.startswith(("make ", "docker ")) for step in steps), "what CI does, anybody can do"
    matrix = WORKFLOW["jobs"]["test"]["strategy"]["matrix"]
    promised = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["project"]["classifiers"]))
    assert matrix["python"] == promised
    assert {name.partition("-")[0] for name in matrix["os"]} == {"ubuntu", "macos"}
    assert promised[0] == PROJECT["project"]["requires-python"].removeprefix(">=")
    assert WORKFLOW["permissions"] == {"contents": "read"}
    assert all("timeout-minutes" in job for job in WORKFLOW["jobs"].values())


def test_the_container_file_is_clean_and_copies_what_is_there() -> None:
    text = (ROOT / "Dockerfile").read_text()
    copied = [name for line in re.findall(r"^COPY (?!--)(.+) \S+$", text, re.MULTILINE) for name in line.split()]
    assert set(copied) == {*SOURCES, "src"}
    allowed = re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    assert set(allowed) == set(copied), "all else stays out of the build"
    linter = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if linter is None:
        pytest.skip("no hadolint")
    run(linter, ROOT / "Dockerfile", cwd=ROOT)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_container_trains(tmp_path: Path) -> None:
    docker = shutil.which("docker") or shutil.which("podman")
    if docker is None or subprocess.run([docker, "info"], capture_output=True).returncode:
        pytest.skip("no docker or podman that runs here; the file is only linted")
    built = subprocess.run([docker, "build", "--quiet", str(ROOT)], capture_output=True, text=True)
    if built.returncode and re.search(r"resolve|dial tcp|timeout|denied", built.stderr):
        pytest.skip(f"the base image cannot be had here: {built.stderr[-200:]}")
    assert built.returncode == 0, built.stderr
    image = built.stdout.strip()
    said = run(docker, "run", "--rm", image, "demo", "--steps", "2", "--display", "plain", cwd=tmp_path)
    assert "run directory: runs/demo-1" in said
