"""One RL step (rollout, reward, credit, update) against TRL's GRPOTrainer: same model, prompts, sizes, reward, loss.

Both sides are swept first (dtype, micro-batch, and TRL's engine; one short run each), then their best settings
alternate. `ours` keeps every response, so both compute the same work; with selection it stands under `also`.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

from bench.compare import Row, comparison, interleave, line, model_of, say, values
from bench.peers.client import peer, server, step
from bench.peers.venv import ensure_venv

Setting = dict[str, Any]
DTYPES = ("float32", "bfloat16")
# Micro-batches of TRL in responses. On long-tail larger ones need more memory than there is, and its other engine,
# `generate`, takes over six minutes for a rollout.
PEER_MICRO_BATCH = {"short": (32, 64, 128), "long-tail": (8, 16), "tiny": (8, 16)}
PEER_ENGINES = {"long-tail": ("continuous",)}
OURS_MICRO_BATCH = {"short": (2048, 4096, 8192), "long-tail": (2048, 4096, 8192), "tiny": (512,)}  # in tokens
EVERYTHING: Row = {"do": "step", "algorithm": "grpo", "everything": True}


def sweep_ours(workload: str, model: Path) -> list[tuple[Setting, float]]:
    """Seconds of one step at each setting, after one that warms up, quickest first."""
    found = []
    for dtype in DTYPES:
        with server(sys.executable, "bench.ours", "--workload", workload, "--model", model, "--dtype", dtype) as ours:
            step(ours, EVERYTHING)
            for tokens in OURS_MICRO_BATCH[workload]:
                seconds = step(ours, {**EVERYTHING, "micro_batch_tokens": tokens})["seconds"]
                found.append(({"dtype": dtype, "micro-batch-tokens": tokens}, seconds))
                say(f"  sweep of ours: {found[-1]}")
    return sorted(found, key=lambda pair: pair[1])


def sweep_peer(workload: str, model: Path, python: Path) -> list[tuple[Setting, float]]:
    """The same for TRL; on long-tail its first step counts, since each takes over two minutes."""
    found = []
    for dtype in DTYPES:
        for size, engine in product(PEER_MICRO_BATCH[workload], PEER_ENGINES.get(workload, ("generate", "continuous"))):
            setting = {"dtype": dtype, "micro-batch": size, "engine": engine}
            with peer(python, "trl_step", "--workload", workload, "--model", model, *_options(setting)) as trl:
                seconds = min(step(trl)["seconds"] for _ in range(1 if workload == "long-tail" else 2))
            found.append((setting, seconds))
            say(f"  sweep of TRL: {found[-1]}")
    return sorted(found, key=lambda pair: pair[1])


def best(found: list[tuple[Setting, float]], dtype: str | None = None) -> Setting:
    """The quickest setting, of one dtype where it is given."""
    return next(setting for setting, _ in found if dtype in (None, setting["dtype"]))


def _options(setting: Setting) -> list[object]:
    return [part for key, value in setting.items() for part in (f"--{key}", value)]


def run(workload: str, options: Namespace) -> Row:
    """The line of one workload: best against best, and under `also` ours in the dtype of TRL's best."""
    model, python = model_of(workload), ensure_venv("trl")
    repeats = options.repeats or 5
    ours, theirs = sweep_ours(workload, model), sweep_peer(workload, model, python)
    same = best(theirs)["dtype"]  # the dtype in which both are compared, too
    settings = {"best": best(ours), "same dtype": best(ours, same)}
    sides: dict[str, tuple[Any, Row]] = {}
    with ExitStack() as stack:
        for name, setting in settings.items():
            if name == "same dtype" and setting == settings["best"]:
                continue
            arguments = ["--workload", workload, "--model", model, *_options(setting)]
            process = stack.enter_context(server(sys.executable, "bench.ours", *arguments))
            sides[f"ours, {name}"] = (process, EVERYTHING)
        arguments = ["--workload", workload, "--model", model, *_options(best(theirs))]
        sides["TRL"] = (stack.enter_context(peer(python, "trl_step", *arguments)), {})
        for algorithm in ("grpo", "reinforce_rej", "raft"):
            sides[f"ours, {algorithm} with selection"] = (
                sides["ours, best"][0],
                {"do": "step", "algorithm": algorithm},
            )
        rows = interleave(sides, repeats)
    trl = values(rows["TRL"])
    mine = {name: found for name, found in rows.items() if name != "TRL"}
    also = []
    for name, found in mine.items():
        if name != "ours, best":
            share = median(values(found, "kept"))
            also.append({**comparison(name.removeprefix("ours, "), values(found), trl), "kept": share})
    if "ours, same dtype" not in mine:
        also.append(comparison("same dtype", values(mine["ours, best"]), trl))
    peaks = [max(values(found, "peak_mb")) for found in (mine["ours, best"], rows["TRL"])]
    also.append(comparison("peak memory", peaks[:1], peaks[1:], "MB"))
    return line(
        "rl_step",
        workload,
        comparison("RL step, everything kept, best against best", values(mine["ours, best"]), trl),
        also,
        settings={"ours": settings["best"], "ours in the same dtype": settings["same dtype"], "peer": best(theirs)},
        sweep={"ours": ours, "peer": theirs},
        parts={name: _parts(found) for name, found in rows.items()},
    )


def _parts(rows: list[Row]) -> Row:
    """Medians of the numbers behind a side."""
    keys = [key for key, value in rows[0].items() if isinstance(value, int | float)]
    return {key: float(f"{median(values(rows, key)):.5g}") for key in keys}
