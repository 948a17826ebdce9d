"""`python -m bench NAME [--workload W]` prints one JSON line a workload; `python -m bench all` also writes docs/.

Nothing else should run on the machine meanwhile. Progress goes to standard error.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

from bench import (
    ahead,
    checkpoint,
    learner,
    log,
    memory,
    report,
    rl_step,
    rollout,
    scale,
    selection,
    startup,
    time_to_accuracy,
)
from bench.compare import say

Bench = Callable[[str, argparse.Namespace], dict[str, Any]]
BENCHES: dict[str, tuple[Bench, tuple[str, ...]]] = {
    "startup": (startup.run, ("short",)),
    "learner": (learner.run, ("short", "long-tail", "large")),
    "selection": (selection.run, ("short", "long-tail")),
    "memory": (memory.run, ("vocabulary", "length")),
    "rollout": (rollout.run, ("short", "long-tail")),
    "rl_step": (rl_step.run, ("short", "long-tail")),
    "scale": (scale.run, ("short", "100M")),
    "ahead": (ahead.run, ("short",)),
    "checkpoint": (checkpoint.run, ("short",)),
    "log": (log.run, ("short",)),
    "time_to_accuracy": (time_to_accuracy.run, ("short",)),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("name", choices=[*BENCHES, "all", "report"], help="report: docs/ from the results so far")
    parser.add_argument("--workload", help="one of the benchmark's own (all of them by default), or tiny")
    parser.add_argument("--repeats", type=int, help="measured turns (5; of memory 3)")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="of selection and memory")
    parser.add_argument("--seeds", type=int, default=3, help="of time_to_accuracy")
    parser.add_argument("--steps", type=int, default=200, help="of time_to_accuracy, at most")
    parser.add_argument("--every", type=int, default=5, help="steps between evaluations of time_to_accuracy")
    parser.add_argument("--gain", type=float, default=0.15, help="accuracy that time_to_accuracy waits for")
    parser.add_argument(
        "--save", action="store_true", help="append to bench/results.jsonl and write docs/, as all does"
    )
    options = parser.parse_args()
    known = {w for name, (_, own) in BENCHES.items() if options.name in (name, "all") for w in (*own, "tiny")}
    if options.workload and options.workload not in known:
        parser.error(f"{options.name} has the workloads {', '.join(sorted(known))}, not {options.workload}")
    names = {"all": list(BENCHES), "report": []}.get(options.name, [options.name])
    for name in names:
        run, workloads = BENCHES[name]
        for workload in [options.workload] if options.workload else workloads:
            say(f"{name}, {workload}")
            found = run(workload, options)
            print(json.dumps(found), flush=True)
            if options.save or options.name == "all":
                report.append([found])
    if options.save or options.name in ("all", "report"):
        report.write()


if __name__ == "__main__":
    main()
