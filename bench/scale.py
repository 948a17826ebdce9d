"""One process against two: throughput of RL steps, TRL on two processes, and memory of an update.

Two processes have one thread each, one process two threads; the prompts of a step are the same in number. TRL's
processes are started by torchrun, which is what `accelerate launch` does on GPUs; on a CPU it wants MPI.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from statistics import median
from typing import Any

from bench.compare import Row, comparison, interleave, line, model_of, say, values
from bench.peers.client import Peer, server, step
from bench.peers.venv import ensure_venv

RANKS = 2
TORCHRUN = ("--standalone", f"--nproc-per-node={RANKS}", "-m")
STEP: Row = {"do": "step", "algorithm": "grpo", "everything": True}
STRATEGIES = ("replicated", "fsdp")
MICRO_BATCH = {"short": 64, "tiny": 8}  # of TRL, in responses of a rank
# One update of 16 responses; each block is computed again in the backward, so that weights and their state dominate.
UPDATE = (
    "--workload",
    "100M",
    "--samples",
    4,
    "--micro-batch-tokens",
    512,
    "--activation-checkpointing",
    "--threads",
    1,
)


def ranks(module: str, *options: object) -> AbstractContextManager[Peer]:
    """A module of ours on two processes."""
    return server(sys.executable, "torch.distributed.run", *TORCHRUN, module, *options)


def run(workload: str, options: Namespace) -> Row:
    """The line of one workload."""
    return memory(options) if workload == "100M" else throughput(workload, options)


def throughput(workload: str, options: Namespace) -> Row:
    """RL steps that keep every response; `ours` is replicated on two processes, `peer` is one process."""
    model, python = model_of(workload), ensure_venv("trl")
    same = ("--workload", workload, "--model", model)
    sides: dict[str, tuple[Any, Row]] = {}
    with ExitStack() as stack:
        one = stack.enter_context(server(sys.executable, "bench.ours", *same, "--threads", RANKS))
        sides["one process"] = (one, STEP)
        for strategy in STRATEGIES:
            several = ranks("bench.ours", *same, "--threads", 1, "--strategy", strategy)
            sides[strategy] = (stack.enter_context(several), STEP)
        sides["TRL"] = (stack.enter_context(_trl(python, workload, model)), {})
        rows = interleave(sides, options.repeats or 5)
    found = {name: [row["tokens"] / row["seconds"] for row in rows[name]] for name in rows}
    unit = "response tokens/s"
    main = comparison("two processes, replicated / one", found["replicated"], found["one process"], unit, more=True)
    also = [comparison("two processes, fsdp / one", found["fsdp"], found["one process"], unit, more=True)]
    for strategy in STRATEGIES:
        what = f"two processes, {strategy} / TRL on two processes"
        also.append(comparison(what, found[strategy], found["TRL"], unit, more=True))
    seconds = {name: median(values(part)) for name, part in rows.items()}
    return line("scale", workload, main, also, seconds=seconds)


def _trl(python: Path, workload: str, model: Path) -> AbstractContextManager[Peer]:
    options = ("--workload", workload, "--model", model, "--threads", 1, "--micro-batch", MICRO_BATCH[workload])
    return server(python, "torch.distributed.run", *TORCHRUN, "bench.peers.trl_step", *options)


def memory(options: Namespace) -> Row:
    """Peak memory of a rank in an update of a model of 100M parameters, above what it had before the model."""
    found: dict[str, list[float]] = {"one process": [], "fsdp": []}
    for _ in range(options.repeats or 3):
        alone = server(sys.executable, "bench.ours_learner", *UPDATE, "--prompts", 4)
        several = ranks("bench.ours_learner", *UPDATE, "--prompts", 4, "--strategy", "fsdp")
        for name, started in (("one process", alone), ("fsdp", several)):
            with started as process:
                found[name].append(step(process, {"do": "memory"})["update_mb"])
            say(f"  {name}: {found[name][-1]:.0f} MB")
    what = "peak memory of a rank in an update, fsdp on two processes against one process"
    return line("scale", "100M", comparison(what, found["fsdp"], found["one process"], "MB"))
