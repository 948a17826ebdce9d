"""The cost of an update that keeps some responses, against keeping all, and against masking the others."""

from __future__ import annotations

import sys
from argparse import Namespace
from typing import Any

from bench.compare import Row, comparison, interleave, line, values
from bench.learner import quickest_budget
from bench.peers.client import server

KEPT = (1.0, 0.75, 0.5, 0.25, 0.1)
GROUPS = "25% kept, whole groups"
ALGORITHMS = ("reinforce_rej", "raft")


def run(workload: str, options: Namespace) -> Row:
    """The line of one workload: a quarter kept against everything; some prompts are all right or all wrong."""
    with server(sys.executable, "bench.ours_learner", "--workload", workload, "--dtype", options.dtype) as process:
        budget, _ = quickest_budget(process)
        ask = {"do": "update", "micro_batch_tokens": budget}
        sides: dict[str, tuple[Any, Row]] = {f"{kept:.0%} kept": (process, {**ask, "keep": kept}) for kept in KEPT}
        sides[GROUPS] = (process, {**ask, "keep": 0.25, "groups": True})
        for algorithm in ALGORITHMS:
            sides[algorithm] = (process, {**ask, "algorithm": algorithm})
            sides[f"{algorithm}, masked"] = (process, {**ask, "algorithm": algorithm, "masked": True})
        rows = interleave(sides, options.repeats or 5)
    full = values(rows["100% kept"])
    parts = {kept: comparison(f"update, {kept:.0%} kept", values(rows[f"{kept:.0%} kept"]), full) for kept in KEPT[1:]}
    also = [comparison(f"update, {GROUPS}", values(rows[GROUPS]), full)]
    also += [found for kept, found in parts.items() if kept != 0.25]
    for name in ALGORITHMS:
        found = comparison(f"{name}, dropping against masking", values(rows[name]), values(rows[f"{name}, masked"]))
        also.append({**found, "kept": rows[name][0]["kept"], "kept_tokens": rows[name][0]["kept_tokens"]})
    tokens = {name: found[0]["learner_tokens"] for name, found in rows.items()}
    settings = {"dtype": options.dtype, "micro_batch_tokens": budget}
    return line("selection", workload, parts[0.25], also, learner_tokens=tokens, settings=settings)
