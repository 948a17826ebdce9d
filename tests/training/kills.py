"""Kill -9 at random instants of short runs until each has ended, and compare what is left with undisturbed runs.

    make test-faults      (tests/training/kills.py --kills 200, with tests/ and this folder on the path)

The phase in which a kill strikes is chosen in turn; the instant within it is random. The process is forked from one
that has imported everything, so that a start takes a second.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any

from disk import contents
from runs import comparable, recipe

from sieverl.training import ahead, checkpoint, heldout, loop, setup
from sieverl.verify import Pool

PHASES = (
    "starting",
    "resuming",
    "sampling",
    "verifying",
    "updating",
    "evaluating",
    "saving",
    "committing",
    "retention",
)
WHERE: tuple[tuple[str, Any, str], ...] = (
    ("resuming", setup.checkpoint, "restore"),
    ("resuming", setup, "open_run_dir"),
    ("sampling", ahead, "collect_rollouts"),
    ("verifying", Pool, "submit"),
    ("verifying", Pool, "collect"),
    ("updating", loop, "share"),
    ("evaluating", heldout, "measure"),
    ("saving", checkpoint, "save"),
    ("committing", checkpoint, "_commit"),
    ("retention", checkpoint, "_forget"),
)
LONGEST = 60.0  # seconds without an end after which a run counts as hung
CASES: tuple[dict[str, Any], ...] = (
    {"algorithm": "reinforce_rej"},
    {"algorithm": "ppo"},
    {"algorithm": "grpo", "model__lora__rank": 2, "dtype": "float32"},
    {"algorithm": "iterative_dpo"},
    {"algorithm": "dapo", "ranks": 2},
)
SHORT: dict[str, Any] = {"steps": 4, "rollout__prompts": 2, "checkpoint__keep": 2, "evaluate__every": 2}


@dataclass
class Counts:
    """What was seen."""

    kills: int = 0
    runs: int = 0
    phases: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


class Phase:
    """The phase of a process, in memory that it shares with the one that watches it."""

    def __init__(self) -> None:
        self._shared = mmap.mmap(-1, 2)

    def __get__(self, owner: object, kind: type) -> Phase:
        return self

    @property
    def now(self) -> str:
        return PHASES[self._shared[0]]

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        before = self._shared[0]
        self._shared[0] = PHASES.index(name)
        try:
            yield
        finally:
            self._shared[0] = before

    def tell(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def told(*args: Any, **options: Any) -> Any:
            with self.of(name):
                return function(*args, **options)

        return told

    def reset(self) -> None:
        self._shared[0] = 0


def rank_main(run_dir: Path, options: dict[str, Any], phase: Phase, log: Path) -> None:
    """One rank of a run, from its start to its end."""
    for name, where, attribute in WHERE:
        if hasattr(where, attribute):
            setattr(where, attribute, phase.tell(name, getattr(where, attribute)))
    with log.open("a") as said:
        run = setup.prepare(recipe(run_dir, **options), say=lambda text: print(text, file=said, flush=True))
    with run, phase.of("updating"):
        loop.train(run)


def start(run_dir: Path, options: dict[str, Any], ranks: int, phase: Phase, log: Path) -> list[int]:
    """Fork the ranks of a run; their process ids."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    phase.reset()
    started = []
    for rank in range(ranks):
        if pid := os.fork():
            started.append(pid)
            continue
        code = 1
        try:
            os.setsid()
            errors = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(errors, 1)
            os.dup2(errors, 2)
            if ranks > 1:
                place = {"RANK": rank, "WORLD_SIZE": ranks, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": ranks}
                os.environ |= {k: str(v) for k, v in {**place, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items()}
            rank_main(run_dir, options, phase if rank == 0 else Phase(), log)
            code = 0
        except BaseException:  # a fork must never go on in its parent's code
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)
    return started


def wait(pids: list[int], until: float) -> list[int] | None:
    """The exit codes of processes, or None if one is still there at that time."""
    codes: dict[int, int] = {}
    while len(codes) < len(pids):
        for pid in pids:
            if pid not in codes and (found := os.waitpid(pid, os.WNOHANG))[0]:
                codes[pid] = os.waitstatus_to_exitcode(found[1])
        if time.monotonic() > until:
            return None
        time.sleep(0.002)
    return [codes[pid] for pid in pids]


def end(pids: list[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for pid in pids:
        with suppress(ChildProcessError):
            os.waitpid(pid, 0)


def killed(pids: list[int], target: str, phase: Phase, chance: random.Random, counts: Counts) -> bool:
    """Kill the run in its phase `target`, one rank first; False if it ended before."""
    deadline = time.monotonic() + LONGEST
    skip = chance.randrange(3) if target not in ("starting", "resuming") else 0  # not always the first time
    last = ""
    while time.monotonic() < deadline:
        now = phase.now
        if now == target and last != target:
            if not skip:
                break
            skip -= 1
        last = now
        if os.waitid(os.P_PID, pids[0], os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return False
    time.sleep(chance.random() ** 2 * (0.002 if target in ("committing", "retention") else 0.3))
    counts.phases[phase.now] += 1
    counts.kills += 1
    os.kill(chance.choice(pids), signal.SIGKILL)
    if len(pids) > 1:
        time.sleep(chance.random())
    end(pids)
    return True


def harness(kills: int, cases: tuple[dict[str, Any], ...] = CASES, seed: int = 0, say: Any = print) -> Counts:
    """Strike `kills` times over all cases in turn."""
    counts, chance, phase = Counts(), random.Random(seed), Phase()
    folder = Path(tempfile.mkdtemp(prefix="kills-"))
    undisturbed: dict[int, Path] = {}
    while counts.kills < kills or not counts.runs:
        number = counts.runs % len(cases)
        options = {**SHORT, **cases[number]}
        ranks = options.pop("ranks", 1)
        if number not in undisturbed:
            undisturbed[number] = folder / f"whole-{number}"
            pids = start(undisturbed[number], options, ranks, phase, folder / "log")
            assert wait(pids, time.monotonic() + 120) == [0] * ranks, (folder / "log").read_text()[-3000:]
        run_dir = folder / f"run-{counts.runs}"
        strikes = min(kills - counts.kills, 8)
        for _ in range(strikes):
            target = PHASES[(counts.kills + counts.runs) % len(PHASES)]
            pids = start(run_dir, options, ranks, phase, folder / "log")
            if not killed(pids, target, phase, chance, counts):
                end(pids)
                break
        pids = start(run_dir, options, ranks, phase, folder / "log")
        codes = wait(pids, time.monotonic() + 120)
        end(pids)
        counts.runs += 1
        before = len(counts.faults)
        name = f"{options['algorithm']}, {ranks} processes"
        if codes != [0] * ranks:
            counts.faults.append(f"{name}: ended with {codes}: {(folder / 'log').read_text()[-500:]}")
        else:
            counts.faults += [f"{name}: {fault}" for fault in differences(run_dir, undisturbed[number])]
        for fault in counts.faults[before:]:
            say(f"FAULT {fault}", flush=True)
        say(f"{counts.kills} kills, {counts.runs} runs, {len(counts.faults)} faults; last: {name}", flush=True)
        shutil.rmtree(run_dir)
    counts.faults += [line for line in (folder / "log").read_text().splitlines() if "damaged" in line]
    shutil.rmtree(folder)
    return counts


def differences(run_dir: Path, whole: Path) -> list[str]:
    """In what a run is not the same, bit for bit, as the undisturbed one."""
    found = []
    if comparable(run_dir) != comparable(whole):
        found.append("metrics")
    for kind in ("checkpoints/latest", "rollouts"):
        mine, theirs = contents(run_dir / kind), contents(whole / kind)
        found += [f"{kind}/{name}" for name in sorted({*mine, *theirs}) if mine.get(name) != theirs.get(name)]
    left = [path.name for path in (run_dir / "checkpoints").iterdir() if path.name.startswith(".")]
    return found + [f"left behind: {name}" for name in left]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    found = harness(options.kills, seed=options.seed)
    print(json.dumps({"kills": found.kills, "runs": found.runs, "phases": found.phases, "faults": found.faults}))
    sys.exit(bool(found.faults))
