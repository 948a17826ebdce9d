"""Start scripts of this folder on several processes, and compare the runs that they made."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from conftest import ROOT
from runs import comparable

HERE = ROOT / "tests" / "distributed"


def launch(script: str, ranks: int, *arguments: object, fails: bool = False) -> str:
    """Run a script on `ranks` processes of one thread each; what it wrote to standard error."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
    command = [sys.executable, *launcher, str(HERE / script), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )
    try:
        _, errors = process.communicate(timeout=280)
    finally:
        with contextlib.suppress(ProcessLookupError):  # the ranks too, where it hangs
            os.killpg(process.pid, signal.SIGKILL)
    assert (process.returncode != 0) == fails, errors[-3000:]
    return errors


def run(folder: Path, ranks: int, steps: int, algorithms: str, *options: str) -> None:
    """`one_run.py` on `ranks` processes."""
    launch("one_run.py", ranks, folder, steps, f"algorithms={algorithms}", *options)


def metrics_of_the_work(row: Mapping[str, float]) -> dict[str, float]:
    """A row without what tells how the ranks shared it."""
    return {name: value for name, value in row.items() if not name.startswith("ranks/")}


def same(one: Path, other: Path, relative: float = 1e-9) -> None:
    """The same responses and rewards, and metrics up to rounding."""
    files = sorted(path.name for path in (one / "rollouts").iterdir())
    assert files == sorted(path.name for path in (other / "rollouts").iterdir())
    for name in files:
        columns = ["response", "reward", "correct"] + (["kept"] if name.startswith("step") else [])
        tables = [pq.read_table(folder / "rollouts" / name, columns=columns) for folder in (one, other)]
        assert tables[0].equals(tables[1]), name
    rows = [[metrics_of_the_work(row) for row in comparable(folder)] for folder in (one, other)]
    assert len(rows[0]) == len(rows[1])
    for mine, theirs in zip(*rows, strict=True):
        assert theirs == pytest.approx(mine, rel=relative, abs=relative, nan_ok=False)
