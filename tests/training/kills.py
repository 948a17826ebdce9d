"""Kill -9 at random instants of short runs until each has ended, and compare what is left with undisturbed runs.

    make test-faults      (tests/training/kills.py --kills 200, with tests/ and this folder on the path)

The phase in which a kill strikes is chosen in turn; the instant within it is random. Verifiers work while responses are
sampled, so that is one phase.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any

from disk import contents, state_of
from forked import end, left, start, wait
from runs import comparable, recipe

from sieverl.learner.learner import Learner
from sieverl.run_dir import manifest
from sieverl.training import ahead, checkpoint, heldout, loop, setup

PHASES = (
    "starting",
    "resuming",
    "sampling",
    "updating",
    "logging",
    "evaluating",
    "saving",
    "committing",
    "retention",
)
WHERE: tuple[tuple[str, Any, str], ...] = (
    ("resuming", setup.checkpoint, "restore"),
    ("resuming", setup, "open_run_dir"),
    ("sampling", ahead, "collect_rollouts"),
    ("sampling", loop, "next_batch"),
    ("updating", Learner, "score"),
    ("updating", Learner, "update"),
    ("logging", loop, "log_rollouts"),
    ("logging", loop, "record"),
    ("evaluating", heldout, "measure"),
    ("saving", checkpoint, "fill"),
    ("committing", checkpoint, "_commit"),
    ("retention", checkpoint, "_forget"),
)
LONGEST = 60.0  # seconds without an end after which a run counts as hung
IN_PARTS: dict[str, Any] = {"ranks": 2, "distributed__strategy": "fsdp", "checkpoint__format": "sharded"}
KEPT: dict[str, Any] = {"steps": 6, "checkpoint__keep": 1, "checkpoint__keep_every": 3, "checkpoint__keep_best": True}
VARIANTS: dict[str, dict[str, Any]] = {
    "reinforce_rej": {"algorithm": "reinforce_rej"},
    "ppo (a critic)": {"algorithm": "ppo"},
    "grpo, LoRA in float32": {"algorithm": "grpo", "model__lora__rank": 2, "dtype": "float32"},
    "iterative_dpo": {"algorithm": "iterative_dpo"},
    "raft, saved in the foreground": {"algorithm": "raft", "checkpoint__background": False},
    "dapo, 2 processes": {"algorithm": "dapo", "ranks": 2},
    "grpo, sharded": {"algorithm": "grpo", "checkpoint__format": "sharded"},
    "grpo, FSDP2 sharded, 2 processes": {"algorithm": "grpo", **IN_PARTS},
    "ppo, FSDP2 sharded, 2 processes": {"algorithm": "ppo", **IN_PARTS},
    "grpo, 1 ahead": {"algorithm": "grpo", "rollout__staleness": 1},
    "dapo, 2 ahead": {"algorithm": "dapo", "rollout__staleness": 2},
    "ppo, 1 ahead, keep_best": {"algorithm": "ppo", "rollout__staleness": 1, **KEPT},
    "grpo, 1 ahead, FSDP2 sharded, 2 processes": {"algorithm": "grpo", "rollout__staleness": 1, **IN_PARTS},
    "reinforce_rej, keep_every, keep_best": {"algorithm": "reinforce_rej", "evaluate__every": 1, **KEPT},
    "iterative_dpo, keep_best, sharded": {"algorithm": "iterative_dpo", "checkpoint__format": "sharded", **KEPT},
}
SHORT: dict[str, Any] = {"steps": 4, "rollout__prompts": 2, "checkpoint__keep": 2, "evaluate__every": 2}
STRIKES = 5  # to a run, at most


@dataclass
class Counts:
    """What was seen."""

    runs: int = 0
    struck: list[str] = field(default_factory=list)  # the phases, in turn
    variants: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    @property
    def kills(self) -> int:
        return len(self.struck)


class Phase:
    """The phases that a process is in, in memory that it shares with the one that watches it.

    There may be several: threads sample and save while the learner works.
    """

    def __init__(self) -> None:
        self._inside = mmap.mmap(-1, len(PHASES))

    @property
    def now(self) -> list[str]:
        """The last one is the innermost."""
        return [name for name, inside in zip(PHASES, self._inside[:], strict=True) if inside]

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        number = PHASES.index(name)
        self._inside[number] += 1
        try:
            yield
        finally:
            self._inside[number] -= 1

    def tell(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def told(*args: Any, **options: Any) -> Any:
            with self.of(name):
                return function(*args, **options)

        return told

    def reset(self) -> None:
        self._inside[:] = bytes(len(PHASES))


def rank_main(run_dir: Path, options: dict[str, Any], phase: Phase, log: Path) -> None:
    """One rank of a run, from its start to its end."""
    for name, where, attribute in WHERE:
        setattr(where, attribute, phase.tell(name, getattr(where, attribute)))
    with log.open("a") as said, phase.of("starting"):
        run = setup.prepare(recipe(run_dir, **options), say=lambda text: print(text, file=said, flush=True))
    with run:
        loop.train(run)


def killed(pids: list[int], target: str, phase: Phase, chance: random.Random) -> str:
    """Kill the run in its phase `target`, one rank first; the phase that it struck, or "" if the run ended before."""
    deadline = time.monotonic() + LONGEST
    skip = chance.randrange(3) if target not in ("starting", "resuming") else 0  # not always the first time
    before = False
    while time.monotonic() < deadline:
        inside = target in phase.now
        if inside and not before:
            if not skip:
                break
            skip -= 1
        before = inside
        if os.waitid(os.P_PID, pids[0], os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return ""
        time.sleep(5e-5)
    time.sleep(chance.random() ** 2 * (0.002 if target in ("logging", "committing", "retention") else 0.3))
    now = phase.now
    os.kill(chance.choice(pids), signal.SIGKILL)
    if len(pids) > 1:
        time.sleep(chance.random())
    end(pids)
    return target if target in now else now[-1] if now else "between"


@dataclass
class Harness:
    """Runs of all variants in a folder, one process tree at a time."""

    folder: Path
    chance: random.Random
    counts: Counts = field(default_factory=Counts)
    phase: Phase = field(default_factory=Phase)
    undisturbed: dict[str, Path] = field(default_factory=dict)

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def start(self, run_dir: Path, variant: str) -> list[int]:
        options = {**SHORT, **VARIANTS[variant]}
        ranks = options.pop("ranks", 1)
        self.phase.reset()
        return start(
            lambda rank: rank_main(run_dir, options, Phase() if rank else self.phase, self.log), ranks, self.log
        )

    def whole(self, variant: str) -> Path:
        """A run of it that nobody disturbs."""
        if variant not in self.undisturbed:
            run_dir = self.undisturbed[variant] = self.folder / f"whole-{len(self.undisturbed)}"
            codes = wait(self.start(run_dir, variant), time.monotonic() + 2 * LONGEST)
            assert codes is not None, f"{variant}: no end"
            assert not any(codes), self.log.read_text()[-3000:]
            state = manifest.load_state(run_dir / "checkpoints" / "latest")
            assert state["updates"], f"{variant}: nothing was learnt, so that little can be lost"
        return self.undisturbed[variant]

    def strike(self, variant: str, kills: int) -> list[str]:
        """Kill a run up to so many times, let it end, and compare it; the faults."""
        whole, run_dir, counts = self.whole(variant), self.folder / f"run-{self.counts.runs}", self.counts
        for _ in range(kills):
            pids = self.start(run_dir, variant)
            struck = killed(pids, PHASES[(counts.kills + counts.runs) % len(PHASES)], self.phase, self.chance)
            if not struck:
                end(pids)
                break
            counts.struck.append(struck)
            counts.variants[variant] += 1
        counts.runs += 1
        made = manifest.steps(run_dir / "checkpoints")
        complete = made[-1:] == manifest.steps(whole / "checkpoints")[-1:]
        pids = self.start(run_dir, variant)
        codes = wait(pids, time.monotonic() + 2 * LONGEST)
        end(pids)
        if codes is None or any(codes):
            return [f"{variant}: ended with {codes}: {self.log.read_text()[-500:]}"]
        found = [f"{variant}: {fault}" for fault in differences(run_dir, whole, more=complete)]
        found += [f"{variant}: still there: {command}" for command in left(self.log)]
        if not found:  # else it is for whoever looks for the reason
            shutil.rmtree(run_dir)
        return found


def harness(kills: int, seed: int = 0, only: str = "", say: Any = print) -> Counts:
    """Strike `kills` times over the variants (those with `only` in their name), all once a round, in random order."""
    folder = Path(tempfile.mkdtemp(prefix="kills-"))
    one = Harness(folder, random.Random(seed))
    counts, names = one.counts, list[str]()
    while counts.kills < kills:
        if not names:
            names = [name for name in VARIANTS if only in name]
            one.chance.shuffle(names)
        variant = names.pop()
        before = counts.kills
        faults = one.strike(variant, min(STRIKES, kills - before))
        counts.faults += faults
        for fault in faults:
            say(f"FAULT {fault}", flush=True)
        last = f"{variant}, killed while {', '.join(counts.struck[before:])}"
        say(f"{counts.kills} kills, {counts.runs} runs, {len(counts.faults)} faults; last: {last}", flush=True)
    counts.faults += [line for line in one.log.read_text().splitlines() if "damaged" in line]
    if not counts.faults:
        shutil.rmtree(folder)
    return counts


def differences(run_dir: Path, whole: Path, more: bool = False) -> list[str]:
    """In what a run is not the same, bit for bit, as the undisturbed one.

    There may be `more` checkpoints where the last save was all that a kill disturbed: retention is then not finished.
    """
    found = ["metrics"] if comparable(run_dir) != comparable(whole) else []
    mine, theirs = ({**contents(folder / "rollouts"), **checkpoints(folder)} for folder in (run_dir, whole))
    found += [name for name in sorted({*mine, *theirs}) if mine.get(name) != theirs.get(name)]
    if more:
        found = [name for name in found if name in theirs or not name.startswith("step-")]
    aside = [path.name for path in (run_dir / "checkpoints").iterdir() if path.name.startswith(".")]
    return found + [f"left behind: {name}" for name in aside]


def checkpoints(run_dir: Path) -> dict[str, object]:
    """The files of all checkpoints, and where `latest` points."""
    folder, found = run_dir / "checkpoints", dict[str, object]()
    for path in sorted(folder.iterdir()):
        if path.is_symlink():
            found[path.name] = os.readlink(path)
            continue
        assert manifest.verify_manifest(path) is None
        found |= {f"{path.name}/{name}": content for name, content in state_of(contents(path)).items()}
    return found


def table(title: str, counted: Counter[str], names: Iterable[str]) -> str:
    lines = [f"| {name} | {counted[name]} |" for name in names if counted[name]]
    return "\n".join([f"| {title} | kills |", "|-|-|", *lines])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="variants with this in their name")
    options = parser.parse_args()
    found = harness(options.kills, options.seed, options.only)
    phases = Counter(found.struck)
    print(table("phase", phases, [*PHASES, "between"]), table("variant", found.variants, VARIANTS), sep="\n\n")
    told = {"kills": found.kills, "runs": found.runs, "phases": phases, "variants": found.variants}
    print(json.dumps({**told, "faults": found.faults}))
    sys.exit(bool(found.faults))
