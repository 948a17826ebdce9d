"""Peak memory of an update beyond weights, gradients and optimiser state, against vocabulary and sequence length.

Each size in a process of its own, on the long-tail model's shape; the update is timed at each size as well.
"""

from __future__ import annotations

import sys
from argparse import Namespace

from bench.compare import Row, comparison, line, say
from bench.peers.client import server, step

VOCABULARIES = (4096, 32768, 151936)
LENGTHS = (512, 1024, 2048, 4096)
TOKENS = 8192  # of an update, at every length
SMALL = ("--workload", "long-tail", "--micro-batch-tokens", 4096)
# growing quantity -> the options of each size
SIZES: dict[str, dict[int, tuple[object, ...]]] = {
    "vocabulary": {n: (*SMALL, "--prompts", 4, "--vocabulary", n) for n in VOCABULARIES},
    "length": {n: (*SMALL, "--prompts", 1, "--samples", TOKENS // n, "--length", n) for n in LENGTHS},
}


def run(workload: str, options: Namespace) -> Row:
    """The line of one growing quantity: `ours` is the largest size, `peer` the smallest; a ratio of 1 is no growth."""
    beyond: dict[int, list[float]] = {}
    seconds: dict[int, Row] = {}
    for size, arguments in SIZES[workload].items():
        beyond[size] = []
        for _ in range(options.repeats or 3):
            with server(sys.executable, "bench.ours_learner", *arguments, "--dtype", options.dtype) as process:
                beyond[size].append(step(process, {"do": "memory"})["beyond_mb"])
                update = step(process, {"do": "update", "keep": 1.0})["seconds"]
                products = step(process, {"do": "products"})["seconds"]
        seconds[size] = {"update": update, "products": products}
        say(f"  {workload} {size}: {beyond[size]} MB beyond weights, gradients and optimiser state; {seconds[size]}")
    first, last = min(beyond), max(beyond)
    what = f"peak memory of an update, {workload} {last} against {first}, {options.dtype}"
    return line("memory", workload, comparison(what, beyond[last], beyond[first], "MB"), mb=beyond, seconds=seconds)
