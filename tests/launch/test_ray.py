"""A run on Ray: the metrics of one process, also when a rank is killed; errors end it at once; nothing hangs."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import tomli_w
from ray_here import LIMIT_S, children, ranks, run_to_end, short_folder, sieverl, started, two_nodes, wait_until
from runs import comparable, recipe, run_it, same_run

from sieverl.run_dir import manifest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3 * LIMIT_S)]
STEPS = 6


@pytest.fixture(scope="module", autouse=True)
def ray_is_here() -> None:
    pytest.importorskip("ray.train", reason="pip install 'sieverl[ray]'")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run on one process, undisturbed."""
    run_dir = tmp_path_factory.mktemp("alone") / "run"
    run_it(run_dir, steps=STEPS)
    return run_dir


Nodes = tuple[str, list[subprocess.Popen[bytes]]]


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    folder = tmp_path_factory.mktemp("nodes")
    with two_nodes(folder) as found:
        yield found
    shutil.rmtree(short_folder(folder), ignore_errors=True)


@pytest.fixture
def address(nodes: Nodes) -> str:
    return nodes[0]


def write_recipe(folder: Path, **changes: object) -> str:
    """The file of a short run in `folder`/run."""
    tables = recipe(Path("run"), steps=STEPS, **changes).model_dump(exclude_none=True)
    path = folder / "r.toml"
    path.write_text(tomli_w.dumps(tables))
    return str(path)


def train(path: str, *options: str) -> list[str]:
    return sieverl("train", path, "--run-dir", "run", "--launcher", "ray", "--workers", "2", *options)


def test_a_local_cluster_is_started_stopped_by_a_signal_and_gives_the_run_of_one_process(
    alone: Path, tmp_path: Path
) -> None:
    command = train(write_recipe(tmp_path))
    log = tmp_path / "first.log"
    with started(command, log) as process:
        wait_until(lambda: manifest.steps(tmp_path / "run" / "checkpoints"), process, log)
        family = children(process.pid)
        assert ranks(process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT_S) == 75, log.read_text()
    assert "saved; the same command resumes" in log.read_text()
    assert not psutil.wait_procs(family, timeout=30)[1], "Ray is gone with the command"
    code, output = run_to_end(command, tmp_path)
    assert code == 0, output
    assert "resuming" in output
    assert f"{STEPS}/{STEPS}" in output, "the table of the first rank comes to this terminal"
    assert "run directory: run" in output
    same_run(alone, tmp_path / "run")


def test_on_two_nodes_a_killed_rank_lets_all_go_on_from_the_last_checkpoint(
    alone: Path, nodes: Nodes, tmp_path: Path
) -> None:
    log, (address, processes) = tmp_path / "killed.log", nodes
    with started(train(write_recipe(tmp_path), "--address", address), log) as process:
        wait_until(lambda: 2 in manifest.steps(tmp_path / "run" / "checkpoints"), process, log)
        assert manifest.steps(tmp_path / "run" / "checkpoints")[-1] < STEPS
        both = ranks(*processes)
        assert len(both) == 2
        os.kill(both[-1], signal.SIGKILL)
        assert process.wait(LIMIT_S) == 0, log.read_text()
    assert "a rank was lost; start 2" in log.read_text()
    assert "resuming" in log.read_text()
    same_run(alone, tmp_path / "run")


def test_an_error_for_people_is_not_tried_again(address: str, tmp_path: Path) -> None:
    """It comes back with its message and exit code: data that are not there, and an alarm of the run itself."""
    command = [*train(write_recipe(tmp_path), "--address", address), "--data.check_gold", "0"]
    code, output = run_to_end([*command, "--data.source", "none.jsonl", "--data.options", "{}"], tmp_path)
    assert code in (2, 3), output
    assert output.count("none.jsonl") == 1
    assert "Traceback" not in output
    (tmp_path / "zero.py").write_text(
        "def zero(response, row):\n    return 0.0\n"
    )  # found from the folder of the command
    nothing_kept = ("--algorithm", "raft", "--verify.name", "zero.py:zero", "--alarms.empty_steps", "1")
    code, output = run_to_end([*command, *nothing_kept], tmp_path)
    assert code == 5, output
    assert "start 2" not in output
    assert len(comparable(tmp_path / "run")) == 2, "the evaluation before training, and one step"


def test_more_workers_than_the_cluster_has_cpus_are_refused_with_the_arithmetic(address: str, tmp_path: Path) -> None:
    code, output = run_to_end([*train(write_recipe(tmp_path), "--address", address), "--workers", "5"], tmp_path)
    assert code == 2, output
    assert "5 x 1 = 5 CPU, and the cluster has 2" in output
    assert not (tmp_path / "run").exists()


def test_another_token_is_refused(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("ray_here").QUIET, "RAY_AUTH_TOKEN", "x" * 64)
    code, output = run_to_end(train(write_recipe(tmp_path), "--address", address), tmp_path)
    assert code == 2, output
    assert "same version and token" in output
