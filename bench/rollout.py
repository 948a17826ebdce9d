"""Responses: tokens per second of the built-in engine, transformers, vLLM's CPU build and the GEMM lower bound."""

from __future__ import annotations

import sys
from argparse import Namespace
from contextlib import ExitStack
from statistics import median
from typing import Any

from bench.compare import Row, comparison, interleave, line, model_of, say, values
from bench.peers.client import Peer, peer, server, step
from bench.peers.venv import NotInstalledError, ensure_venv

DTYPES: tuple[str, ...] = ("float32", "bfloat16")


def engines(workload: str, model: list[object]) -> dict[str, list[tuple[str, list[object]]]]:
    """The settings of each peer: module and options.

    On long-tail a rollout by `generate` takes six minutes, so it is left out, and continuous batching is quicker in
    bfloat16 (47 against 58 s in the sweep of `rl_step`), so it is not swept again.
    """
    names, dtypes = {"generate": "generate", "continuous batching": "continuous"}, DTYPES
    if workload == "long-tail":
        names, dtypes = {"continuous batching": "continuous"}, DTYPES[1:]
    found = {
        name: [("generate", [*model, "--engine", engine, "--dtype", d]) for d in dtypes]
        for name, engine in names.items()
    }
    if _has_vllm():
        found["vLLM"] = [("vllm_rollout", [*model, "--dtype", d]) for d in DTYPES]
    return found


def _has_vllm() -> bool:
    try:
        ensure_venv("vllm")
    except NotInstalledError:
        say("  vLLM's CPU build cannot be installed on this machine: left out")
        return False
    return True


def _start(stack: ExitStack, setting: tuple[str, list[object]]) -> Peer:
    module, options = setting
    python = ensure_venv("vllm" if module == "vllm_rollout" else "trl")
    return stack.enter_context(peer(python, module, *options))


def quickest(name: str, settings: list[tuple[str, list[object]]]) -> tuple[str, list[object]]:
    """The setting with the most tokens per second in one step after the first."""
    if len(settings) == 1:
        return settings[0]
    speed = []
    for setting in settings:
        with ExitStack() as stack:
            process = _start(stack, setting)
            step(process)
            speed.append(step(process)["tokens_per_second"])
        say(f"  sweep of {name}: {setting[1][-1]} {speed[-1]:.0f} tokens/s")
    return settings[speed.index(max(speed))]


def run(workload: str, options: Namespace) -> Row:
    """The line of one workload: the better dtype of ours against the better one of transformers' first engine."""
    model: list[object] = ["--workload", workload, "--model", model_of(workload)]
    ensure_venv("trl")
    chosen = {name: quickest(name, settings) for name, settings in engines(workload, model).items()}
    sides: dict[str, tuple[Any, Row]] = {}
    with ExitStack() as stack:
        for dtype in DTYPES:
            process = stack.enter_context(server(sys.executable, "bench.ours", *model, "--dtype", dtype))
            sides[f"ours {dtype}"] = (process, {"do": "rollout"})
            sides[f"GEMM lower bound {dtype}"] = (process, {"do": "products"})
        for name, setting in chosen.items():
            sides[name] = (_start(stack, setting), {})
        rows = interleave(sides, options.repeats or 5)
    speed = {name: values(found, "tokens_per_second") for name, found in rows.items()}
    ours = max((f"ours {d}" for d in DTYPES), key=lambda name: median(speed[name]))
    first = next(iter(chosen))
    also = []
    for name in sides:
        if name not in (ours, first):
            mine = f"ours {name.split()[-1]}" if name.startswith("GEMM") else ours
            also.append(comparison(f"{mine} / {name}", speed[mine], speed[name], "tokens/s", more=True))
    waste = {name: median(values(found, "padding_waste")) for name, found in rows.items() if "GEMM" not in name}
    return line(
        "rollout",
        workload,
        comparison(f"{ours} / transformers {first}", speed[ours], speed[first], "tokens/s", more=True),
        also,
        padding_waste=waste,
        mean_length={name: median(values(rows[name], "mean_length")) for name in waste},
        settings={name: [str(option) for option in setting[1][4:]] for name, setting in chosen.items()},
    )
