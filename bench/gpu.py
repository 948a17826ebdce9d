"""`make bench-gpu`: the GPU tests, and rollouts, updates and RL steps of Qwen2.5's sizes with random weights.

Without a GPU the same command runs on the CPU at toy size, which shows that it runs and nothing else. What is missing
or too large is left out with its reason. Lines go to bench/results-gpu.jsonl, the page to docs/benchmarks-gpu.md.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import torch

from bench import gpu_report
from bench.arithmetic import BFLOAT16_BYTES, GB, kv_cache_bytes, parameters, rollout_bytes, update_bytes
from bench.compare import MODELS, Row, line_about, model_of, say, values
from bench.peers.client import Peer, server, step
from bench.peers.venv import ROOT, NotInstalledError, ensure_venv
from bench.workloads import WORKLOADS, Workload

ENGINES = ("torch", "transformers", "vllm")
LORA_RANK = 32
LARGE = 4e9  # parameters from which on LoRA is measured beside training all weights
KEPT = 0.25
LOGS = ROOT / ".bench/logs"


class LeftOutError(Exception):
    """Not measured; the message says why."""


@dataclass(frozen=True)
class Place:
    """What is measured on, and what differs there: sizes, dtype, and the peers' environments."""

    device: str
    name: str
    memory: float  # bytes
    dtype: str
    configurations: tuple[str, ...]
    budgets: tuple[int, ...]  # micro_batch_tokens of ours, swept
    micro_batches: tuple[int, ...]  # of TRL, in responses, swept
    vllm: Callable[[bool], Path]  # the Python of SieveRL with vLLM, installed where it may be
    trl: Callable[[bool], Path]
    trl_engine: str


def vllm_of_make(install: bool) -> Path:
    """The environment of vLLM's CPU build, which `make` sets up for the tests too."""
    python = ROOT / ".venv-vllm/bin/python"
    if not (ROOT / ".venv-vllm/.done").exists():
        raise NotInstalledError("the environment .venv-vllm is not there; make vllm-env sets it up")
    return python


def this_place() -> Place:
    """The first GPU, or the CPU."""
    if not torch.cuda.is_available():
        return Place(
            device="cpu",
            name="CPU, toy size",
            memory=float(psutil.virtual_memory().total),
            dtype="float32",
            configurations=("toy",),
            budgets=(512,),
            micro_batches=(8,),
            vllm=vllm_of_make,
            trl=partial(ensure_venv, "trl"),
            trl_engine="generate",
        )
    about = torch.cuda.get_device_properties(0)
    return Place(
        device="cuda",
        name=about.name,
        memory=float(about.total_memory),
        dtype="bfloat16",
        configurations=("qwen2.5-0.5b", "qwen2.5-1.5b", "qwen2.5-7b"),
        budgets=(8192, 32768),
        micro_batches=(4, 16, 32),
        vllm=partial(ensure_venv, "vllm-gpu"),
        trl=partial(ensure_venv, "trl-vllm"),
        trl_engine="vllm",
    )


@dataclass(frozen=True)
class Bench:
    """One configuration at one place, and how often it is measured."""

    place: Place
    workload: Workload
    model: Path
    repeats: int
    install: bool

    def environment(self, get: Callable[[bool], Path]) -> Path:
        """The Python of an environment; left out where it cannot be had."""
        try:
            return get(self.install)
        except NotInstalledError as error:
            raise LeftOutError(str(error)) from error

    def python_of(self, engine: str) -> Path:
        """The Python that SieveRL runs in with an engine."""
        elsewhere = engine == "vllm" and find_spec("vllm") is None
        return self.environment(self.place.vllm) if elsewhere else Path(sys.executable)

    def must_fit(self, needed: float, arithmetic: str) -> None:
        """Left out where the least that is needed is more than there is."""
        if needed > self.place.memory:
            raise LeftOutError(f"does not fit {self.place.memory / GB:.1f} GB: {arithmetic}")

    @contextmanager
    def ours(self, module: str, *options: object, python: Path = Path(sys.executable)) -> Iterator[Peer]:
        """A process of SieveRL for this configuration."""
        device = ("--device", self.place.device, "--dtype", self.place.dtype)
        with process(
            f"{module}-{self.workload.name}", python, module, "--workload", self.workload.name, *device, *options
        ) as found:
            yield found

    def steps(self, found: Peer, request: Row | None = None) -> list[Row]:
        """The measured turns of one request; the first is dropped."""
        return [step(found, request) for _ in range(self.repeats + 1)][1:]


@contextmanager
def process(name: str, python: Path, module: str, *options: object) -> Iterator[Peer]:
    """A process that waits for requests. Left out when it fails, with the last error of its log."""
    LOGS.mkdir(parents=True, exist_ok=True)
    log = LOGS / f"{name}.log"
    try:
        with log.open("w") as messages, server(python, module, *options, messages=messages) as found:
            yield found
    except RuntimeError as error:
        raise LeftOutError(reason(str(error), log.read_text())) from error


def reason(failure: str, log: str) -> str:
    """Why a process failed: the last error of its log where it has ended, else what it answered.

    >>> reason("[...] ended with exit code 1; its messages", "loading\\nValueError: too large\\nbye")
    'ValueError: too large'
    """
    if "ended with exit code" not in failure:
        return failure
    errors = [line for line in log.splitlines() if re.match(r"[\w.]*(Error|Exception|Exit)\b", line)]
    return errors[-1] if errors else "ended" + failure.partition("ended")[2].partition(";")[0]


def rollouts(bench: Bench, engine: str) -> Row:
    """Tokens per second of one of SieveRL's engines."""
    bench.must_fit(*rollout_bytes(bench.workload, bench.place.dtype))
    options = ("--model", bench.model, "--engine", engine)
    with bench.ours("bench.ours", *options, python=bench.python_of(engine)) as found:
        rows = bench.steps(found, {"do": "rollout"})
    speed = values(rows, "tokens_per_second")
    return {
        "tokens_per_second": median(speed),
        "all": speed,
        "mean_length": median(values(rows, "mean_length")),
        "peak_mb": max(values(rows, "peak_mb")),
    }


def utilisation(bench: Bench, rank: int) -> Row:
    """Model FLOPs of an update per second over the peak of plain products, keeping everything and a part."""
    bench.must_fit(*update_bytes(bench.workload, rank, bench.place.dtype))
    with bench.ours("bench.ours_learner", "--lora-rank", rank) as found:
        peak = step(found, {"do": "peak"})["flops"]
        budget, everything = best(bench, found, {"do": "update", "keep": 1.0})
        part = bench.steps(found, {"do": "update", "keep": KEPT, "micro_batch_tokens": budget})
    return {
        "peak_tflops": peak / 1e12,
        "micro_batch_tokens": budget,
        "everything": share(everything, peak),
        "part": share(part, peak),
        "peak_mb": max(values(everything, "peak_mb")),
    }


def share(rows: Sequence[Row], peak: float) -> Row:
    """Seconds, operations per second, and their share of the peak."""
    seconds = median(values(rows))
    speed = rows[0]["flops"] / seconds
    return {"seconds": seconds, "tflops": speed / 1e12, "utilisation": speed / peak, "all": values(rows)}


def best(bench: Bench, found: Peer, request: Row) -> tuple[int, list[Row]]:
    """The micro-batch size with the quickest turns, and these; sizes that need too much memory are passed over."""
    tried: list[tuple[int, list[Row]]] = []
    for tokens in bench.place.budgets:
        try:
            tried.append((tokens, bench.steps(found, {**request, "micro_batch_tokens": tokens})))
        except RuntimeError as error:
            if found.poll() is not None or (tokens == bench.place.budgets[-1] and not tried):
                raise
            say(f"  micro_batch_tokens {tokens}: {error}")
    return min(tried, key=lambda pair: median(values(pair[1])))


def our_step(bench: Bench, rank: int, engine: str) -> Row:
    """An RL step of SieveRL that keeps everything, and one with selection."""
    bench.must_fit(*update_bytes(bench.workload, rank, bench.place.dtype))
    options = ["--model", bench.model, "--engine", engine, "--lora-rank", rank]
    options += ["--importance-weights"] if bench.place.device == "cuda" else []
    with bench.ours("bench.ours", *options, python=bench.python_of(engine)) as found:
        budget, everything = best(bench, found, {"do": "step", "everything": True})
        ask = {"do": "step", "algorithm": "reinforce_rej", "micro_batch_tokens": budget}
        selected = bench.steps(found, ask)
    kept = median(values(selected, "kept"))
    return {**parts(everything), "setting": f"{budget} tokens", "selected": {**parts(selected), "kept": kept}}


def peer_step(bench: Bench, rank: int) -> Row:
    """An RL step of TRL's GRPOTrainer at its quickest micro-batch size, in responses."""
    place, w = bench.place, bench.workload
    bench.must_fit(*update_bytes(w, rank, place.dtype))
    python = bench.environment(place.trl)
    engine = BFLOAT16_BYTES * parameters(w) + 1.1 * kv_cache_bytes(w, BFLOAT16_BYTES) + 2 * GB
    options = ["--workload", w.name, "--model", bench.model, "--dtype", place.dtype, "--engine", place.trl_engine]
    options += ["--lora-rank", rank, "--vllm-memory", round(min(0.5, engine / place.memory), 3)]
    tight = engine + update_bytes(w, rank, place.dtype)[0] > place.memory / 2  # activations take the rest
    options += ["--vllm-sleeps"] if tight else []
    tried, why = [], ""
    for size in place.micro_batches:
        try:
            with process(f"trl-{w.name}", python, "bench.peers.trl_step", *options, "--micro-batch", size) as found:
                tried.append({**parts(bench.steps(found)), "setting": f"{size} responses"})
        except LeftOutError as error:
            why = str(error)
            say(f"  TRL, micro-batch {size}: {why}")
    if not tried:
        raise LeftOutError(why)
    return min(tried, key=lambda row: row["seconds"])


def parts(rows: Sequence[Row]) -> Row:
    """Medians of a step, its rollout under one name for both sides, and its peak memory."""
    rollout = "rollout_seconds" if "rollout_seconds" in rows[0] else "generate_seconds"
    return {
        "seconds": median(values(rows)),
        "rollout_seconds": median(values(rows, rollout)),
        "mean_length": median(values(rows, "mean_length")),
        "peak_mb": max(values(rows, "peak_mb")),
        "all": values(rows),
    }


def gpu_tests(junit: Path) -> Row:
    """`pytest -m gpu`, counted; without a GPU they are skipped."""
    junit.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pytest", "-m", "gpu", f"--junitxml={junit}", "tests/test_gpu.py"]
    if subprocess.run(command, cwd=ROOT, stdout=sys.stderr).returncode not in (0, 1):
        raise LeftOutError("pytest -m gpu did not run; its messages are above")
    suite = ElementTree.parse(junit).getroot()
    suite = suite if suite.tag == "testsuite" else suite[0]
    found = {key: int(suite.attrib[key]) for key in ("tests", "failures", "errors", "skipped")}
    return {**found, "passed": found["tests"] - found["failures"] - found["errors"] - found["skipped"]}


def measured(about: Row, measure: Callable[..., Row], *arguments: Any) -> Row:
    """What is measured, or why not, with what it is about."""
    say(", ".join(str(value) for value in about.values()))
    try:
        row = measure(*arguments)
    except LeftOutError as error:
        row = {"left_out": str(error)}
        say(f"  left out: {error}")
    return {**about, **row}


def of_configuration(bench: Bench) -> Iterator[Row]:
    """All rows of one configuration, one after the other: the GPU holds one side at a time."""
    name = bench.workload.name
    ran = {}
    for engine in ENGINES:
        row = measured({"kind": "rollout", "configuration": name, "engine": engine}, rollouts, bench, engine)
        if "left_out" not in row:
            ran[engine] = row["tokens_per_second"]
        yield row
    for rank in (0, LORA_RANK) if parameters(bench.workload) > LARGE else (0,):
        about = {"configuration": name, "dtype": bench.place.dtype, "lora_rank": rank}
        yield measured({"kind": "learner", **about}, utilisation, bench, rank)
        for engine in dict.fromkeys(["torch", max(ran, key=lambda e: ran[e], default="torch")]):
            yield measured({"kind": "rl_step", **about, "side": f"SieveRL, {engine}"}, our_step, bench, rank, engine)
        peer = f"TRL, {bench.place.trl_engine}"
        yield measured({"kind": "rl_step", **about, "side": peer}, peer_step, bench, rank)


def main(arguments: Sequence[str] | None = None) -> int:
    """Everything; 1 when a GPU test fails."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument("--configurations", nargs="+", choices=WORKLOADS, help="Qwen2.5's on a GPU, toy on a CPU")
    parser.add_argument("--repeats", type=int, default=3, help="measured turns of each")
    parser.add_argument("--no-install", action="store_true", help="leave out peers that are not installed yet")
    parser.add_argument("--no-tests", action="store_true", help="without pytest -m gpu")
    parser.add_argument("--results", type=Path, default=gpu_report.RESULTS)
    parser.add_argument("--page", type=Path, default=gpu_report.PAGE)
    options = parser.parse_args(arguments)
    place = this_place()
    say(f"{place.name}, {place.memory / GB:.1f} GB")

    def save(row: Row) -> Row:
        gpu_report.append([{"device": place.device, "place": place.name, **row, **line_about()}], options.results)
        gpu_report.write(options.results, options.page)
        return row

    failed = False
    if not options.no_tests:
        tests = save(measured({"kind": "tests"}, gpu_tests, LOGS / "gpu-tests.xml"))
        failed = "left_out" in tests or bool(tests["failures"] + tests["errors"])
    for name in options.configurations or place.configurations:
        bench = Bench(place, WORKLOADS[name], model_of(name), options.repeats, not options.no_install)
        for row in of_configuration(bench):
            save(row)
        shutil.rmtree(MODELS / name)  # 15 GB for the largest
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
