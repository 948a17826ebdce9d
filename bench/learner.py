"""The time of an update (forward, backward, optimiser) beside that of its matrix products alone, in each dtype."""

from __future__ import annotations

import sys
from argparse import Namespace
from contextlib import ExitStack
from typing import Any

from bench.compare import Row, comparison, interleave, line, say, values
from bench.peers.client import server, step

DTYPES = ("float32", "bfloat16")
BUDGETS = (1024, 2048, 4096, 8192)  # tokens of a micro-batch


def quickest_budget(process: Any) -> tuple[int, dict[int, float]]:
    """The micro-batch size, in tokens, with the fastest update that keeps everything, and the seconds at each size."""
    step(process, {"do": "update", "keep": 1.0})
    seconds = {n: step(process, {"do": "update", "keep": 1.0, "micro_batch_tokens": n})["seconds"] for n in BUDGETS}
    say(f"  sweep of micro_batch_tokens: {seconds}")
    return min(seconds, key=lambda n: seconds[n]), seconds


def run(workload: str, options: Namespace) -> Row:
    """The line of one workload; the ratio is the share of the speed of that bound."""
    sides: dict[str, tuple[Any, Row]] = {}
    sweep = {}
    with ExitStack() as stack:
        for dtype in DTYPES:
            arguments = ["--workload", workload, "--dtype", dtype]
            process = stack.enter_context(server(sys.executable, "bench.ours_learner", *arguments))
            tokens, sweep[dtype] = quickest_budget(process)
            sides[dtype] = (process, {"do": "update", "keep": 1.0, "micro_batch_tokens": tokens})
            sides[f"products {dtype}"] = (process, {"do": "products", "micro_batch_tokens": tokens})
        rows = interleave(sides, options.repeats or 5)
    each = [
        comparison(f"update / GEMM lower bound, {d}", values(rows[d]), values(rows[f"products {d}"])) for d in DTYPES
    ]
    padding = {d: rows[d][0]["learner_tokens"] for d in DTYPES}
    return line("learner", workload, each[0], each[1:], sweep=sweep, learner_tokens=padding)
