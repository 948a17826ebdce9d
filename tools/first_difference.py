"""Where two runs part: the first response that differs, and the metrics of the steps up to there.

    python tools/first_difference.py runs/one runs/two

Runs of one recipe on other numbers of ranks are the same in float64. In float32 sums round differently, and some time a
sampled token flips: this says when.
"""

from __future__ import annotations

import sys
from pathlib import Path

from sieverl.run_dir.metrics import MetricsLog
from sieverl.run_dir.rollouts import RolloutRow, read_rollouts


def first_difference(one: Path, other: Path) -> tuple[RolloutRow, RolloutRow, int] | None:
    """The first two responses that differ, and from which character on; None where all are the same."""
    step = 1
    while (rows := read_rollouts(one, step)) and (others := read_rollouts(other, step)):
        for mine, theirs in zip(rows, others, strict=False):
            if mine.response != theirs.response:
                return mine, theirs, _shared(mine.response, theirs.response)
        step += 1
    return None


def _shared(one: str, other: str) -> int:
    """How many characters two texts begin with in common."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


def describe(one: Path, other: Path) -> str:
    """What `first_difference` found, and how far losses are apart in each step until then, in words."""
    found = first_difference(one, other)
    last = found[0].step if found else 10**9
    pairs = zip(MetricsLog(one / "metrics.jsonl").rows(), MetricsLog(other / "metrics.jsonl").rows(), strict=False)
    lines = [
        f"step {a['step']}: losses {a['train/loss']:.9g} and {b['train/loss']:.9g}, "
        f"{abs(a['train/loss'] - b['train/loss']):.1e} apart"
        for a, b in pairs
        if 0 < a["step"] <= last
    ]
    if found is None:
        return "\n".join([*lines, "all responses are the same"])
    mine, theirs, at = found
    where = f"step {mine.step}, prompt {mine.prompt!r}, sample {mine.sample}, character {at}"
    return "\n".join([*lines, f"the first response that differs: {where}", repr(mine.response), repr(theirs.response)])


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    print(describe(Path(sys.argv[1]), Path(sys.argv[2])))
