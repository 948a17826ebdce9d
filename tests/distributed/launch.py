"""Start scripts of this folder on several processes, and compare the runs that they made."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

from conftest import ROOT

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
