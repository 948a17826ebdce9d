"""What the report takes from the logged responses: solve rates, tokens, counts of held-out prompts, pass@k."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sieverl.display.report.content import spread
from sieverl.errors import first_line
from sieverl.evaluation.statistics import Interval, mean_interval, pass_at
from sieverl.run_dir.rollouts import Kind
from sieverl.run_dir.saved import SavedRun
from sieverl.types import IntArray

READ = 40  # steps, and evaluations, at most
BINS = ("all wrong", "up to 20%", "up to 40%", "up to 60%", "up to 80%", "below 100%", "all correct")


@dataclass(frozen=True)
class StepRead:
    """A step: the share of its groups in each of `BINS`, tokens sampled, and tokens that the learner computed."""

    step: int
    rates: Sequence[float]
    sampled: int
    computed: int


@dataclass(frozen=True)
class Counts:
    """The prompts of an evaluation: prompt id -> correct responses, and responses."""

    step: int
    correct: Mapping[int, int]
    samples: Mapping[int, int]


def numbers(run: SavedRun, step: int, columns: Sequence[str], kind: Kind = "step") -> dict[str, IntArray] | None:
    """Columns of whole numbers (or truths, as 0 and 1); -1 is null. None where they cannot be read, which is noted."""
    import pyarrow as pa

    table = run.responses(step, columns, kind)
    if table is None:
        return None
    try:
        cast = {name: table[name].cast(pa.int64()).fill_null(-1) for name in columns}
    except pa.ArrowException as error:
        note(run, f"rollouts/{kind}-{step:06d}.parquet has other columns than it should: {first_line(error, 80)}")
        return None
    return {name: column.to_numpy() for name, column in cast.items()}


def texts(run: SavedRun, step: int, columns: Sequence[str], where: Any, kind: Kind = "step") -> list[dict[str, Any]]:
    """The rows that `where` keeps; none where they cannot be read, which is noted."""
    import pyarrow as pa

    try:
        table = run.responses(step, columns, kind, where)
        return [] if table is None else table.to_pylist()
    except (pa.ArrowException, ValueError, TypeError) as error:
        note(run, f"rollouts/{kind}-{step:06d}.parquet cannot be shown: {first_line(error, 80)}")
        return []


def note(run: SavedRun, problem: str) -> None:
    """Say a problem once."""
    if problem not in run.problems:
        run.problems.append(problem)


# --- steps ------------------------------------------------------------------------------------------


def steps_read(run: SavedRun, most: int = READ) -> list[StepRead]:
    """At most that many of the steps whose responses are logged."""
    out = []
    for step in spread(run.logged["step"], most):
        found = numbers(run, step, ("group", "correct", "kept", "length"))
        if found is not None and len(found["group"]):
            length_R = found["length"].clip(0)
            computed = int(length_R[found["kept"] == 1].sum())
            out.append(StepRead(step, solve_rates(found["group"], found["correct"]), int(length_R.sum()), computed))
    if out and computes_all(run, out[-1]):
        out = [StepRead(one.step, one.rates, one.sampled, one.sampled) for one in out]
    return out


def computes_all(run: SavedRun, last: StepRead) -> bool:
    """Whether rejected responses are computed, too, as a penalty over all sampled ones needs it.

    A step with nothing kept says nothing: one group is then computed to see what the engine does.
    """
    if not 0 < last.computed < last.sampled:
        return False
    table = run.responses(last.step, ["learner_logp"], where=[("kept", "=", False)])
    return table is not None and table.num_rows > 0 and table["learner_logp"].null_count == 0


def solve_rates(group_R: IntArray, correct_R: IntArray) -> list[float]:
    """The share of groups in each of `BINS` by the share of their responses that is correct.

    >>> import numpy as np
    >>> solve_rates(np.array([0, 0, 1, 1, 2, 2, 3, 3]), np.array([0, 0, 0, 1, 1, 1, 1, 1]))
    [0.25, 0.0, 0.0, 0.25, 0.0, 0.0, 0.5]
    """
    _, index_R = np.unique(group_R, return_inverse=True)
    size_G = np.bincount(index_R)
    right_G = np.bincount(index_R, correct_R == 1).astype(int)
    fifth_G = -(-5 * right_G // size_G)  # rounded up: 1 to 5
    bin_G = np.where(right_G == 0, 0, np.where(right_G == size_G, len(BINS) - 1, fifth_G))
    shares: list[float] = (np.bincount(bin_G, minlength=len(BINS)) / len(size_G)).tolist()
    return shares


# --- evaluations ------------------------------------------------------------------------------------


def evaluations(run: SavedRun, most: int = READ) -> list[Counts]:
    """At most that many of the evaluations whose responses are logged, the first and the last among them."""
    out = []
    for step in spread(run.logged["eval"], most):
        found = numbers(run, step, ("prompt_id", "correct"), "eval")
        if found is not None and len(found["prompt_id"]):
            ids, index_R = np.unique(found["prompt_id"], return_inverse=True)
            right, size = np.bincount(index_R, found["correct"] == 1), np.bincount(index_R)
            out.append(Counts(step, _whole(ids, right), _whole(ids, size)))
    return out


def _whole(ids: IntArray, counts: Any) -> dict[int, int]:
    return {int(i): int(count) for i, count in zip(ids, counts, strict=True)}


def pass_curve(counts: Counts) -> dict[int, Interval]:
    """pass@k for k = 1, 2, 4, ... and all samples, over the prompts with most samples, with 95% intervals.

    >>> curve = pass_curve(Counts(0, {1: 0, 2: 2, 3: 4}, {1: 4, 2: 4, 3: 4}))
    >>> {k: round(mean, 3) for k, (mean, low, high) in curve.items()}
    {1: 0.5, 2: 0.611, 4: 0.667}
    """
    samples = max(counts.samples.values())
    correct_P = np.array([counts.correct[i] for i, size in counts.samples.items() if size == samples])
    draws = sorted({2**i for i in range(samples.bit_length())} | {samples})
    return {k: mean_interval(pass_at(correct_P, samples, k), samples / k) for k in draws}
