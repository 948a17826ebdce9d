"""What it costs to log every response of a step: time on the demo, bytes a token."""

from __future__ import annotations

import tempfile
import time
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from bench.compare import Row, comparison, line, say
from sieverl.assets import RECIPE
from sieverl.recipe import load
from sieverl.run_dir.rollouts import read_rollouts, rollout_path, write_rollouts
from sieverl.training import loop
from sieverl.training.setup import prepare

STEPS = 20
COPIES = 32  # of the demo's responses in a file as large as a real step's


def run(workload: str, options: Namespace) -> Row:
    """The line: seconds of writing the responses of a step against those of the step."""
    written, steps = list[float](), list[float]()
    before = loop.log_rollouts

    def timed(*arguments: Any) -> None:
        began = time.perf_counter()
        before(*arguments)
        written.append(time.perf_counter() - began)

    with tempfile.TemporaryDirectory() as folder:
        changes = {"run_dir": folder, "threads": 1, "steps": 10**6, "evaluate.source": "", "evaluate.every": 0}
        setattr(loop, "log_rollouts", timed)  # noqa: B010
        try:
            with prepare(load(RECIPE, changes), say=lambda text: None) as one:
                for _ in range(STEPS):
                    began = time.perf_counter()
                    loop.one_step(one)
                    steps.append(time.perf_counter() - began)
        finally:
            setattr(loop, "log_rollouts", before)  # noqa: B010
        rows = read_rollouts(Path(folder), STEPS)
        size = rollout_path(Path(folder), STEPS).stat().st_size / sum(row.length for row in rows)
        many = [replace(row, group=row.group + 1000 * i, logp=row.logp - i) for i in range(COPIES) for row in rows]
        write_rollouts(Path(folder), STEPS, many)
        large = rollout_path(Path(folder), STEPS).stat().st_size / sum(row.length for row in many)
    share = median(a / b for a, b in zip(written, steps, strict=True))
    say(f"  {share:.2%} of a step; {size:.1f} bytes a token, {large:.1f} in a file of {len(many):,} responses")
    main = comparison("logging the responses", written, steps)
    bytes_a_token = {"demo": size, f"{COPIES} times as many": large}
    return line("log", workload, main, settings={"share of a step": share, "bytes a token": bytes_a_token})
