"""What is kept of each cell: `results.jsonl`, one line a run, enough for every table and figure of the study."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from sieverl.errors import DataError, nearest
from sieverl.files import write_text
from sieverl.run_dir.metrics import EXEMPT
from sieverl.run_dir.saved import SavedRun
from sieverl.run_dir.versions import versions
from sieverl.study.plan import Cell, Quantity, Study, Until

DIGITS = 6  # of a number that is kept
CURVES = (
    "reward/accuracy",
    "policy/entropy",
    "policy/kl_old",
    "policy/clip_fraction",
    "select/kept_fraction",
    "select/all_wrong",
    "select/all_correct",
    "rollout/tokens",
    "rollout/length_mean",
    "train/tokens",
)
SECONDS = ("step", "rollout", "update", "evaluate")
Points = Mapping[str, tuple[list[int], list[float]]]  # metric -> steps, values


@dataclass(frozen=True)
class Result:
    """One run: its metrics by step, the seconds of its phases, what made it.

    `stopped` is the message of the alarm that ended it, if one did. `settings` is the digest of its recipe, `run` that
    of all its metrics but times: a rerun on the same machine has the same.
    """

    arm: str
    seed: int
    settings: str
    step: int
    heldout: str
    metrics: dict[str, tuple[list[int], list[float]]]
    seconds: dict[str, float] = field(default_factory=dict)
    stopped: str = ""
    run: str = ""
    versions: dict[str, str | None] = field(default_factory=dict)

    def value(self, quantity: Quantity) -> float | None:
        """A number of the run; None where it has no such metric at these steps, or does not reach what it is until.

        A run that an alarm stopped has no last step, and no sum over all. The step within which something is reached
        counts in part.

        >>> result = Result("a", 1, "", 3, "eval/x/avg@4", {"eval/x/avg@4": ([0, 2], [0.25, 0.5])})
        >>> result.value(Quantity()), result.value(Quantity(steps=(0, 3))), result.value(Quantity(metric="b"))
        (0.5, 0.375, None)
        """
        steps, values = self.metrics.get(quantity.metric or self.heldout, ([], []))
        first, last = span(quantity, steps[-1] if steps else 0)
        end: float = last
        if quantity.until:
            reached = self.reached(quantity.until)
            if not reached:  # never, or before training
                return None
            end = reached
        elif self.stopped and not isinstance(quantity.steps, tuple):
            return None
        begin = first if quantity.over is None else max(first, math.ceil(end) - quantity.over + 1)
        points = [(value, min(1.0, end - step + 1)) for step, value in zip(steps, values, strict=True) if begin <= step]
        found = [(value, share) for value, share in points if share > 0]
        if not found or (quantity.steps != "all" and last > self.step):
            return None
        value = math.fsum(value * share for value, share in found)
        if quantity.reduce == "mean":
            value /= math.fsum(share for _, share in found)
        if quantity.log:
            value = math.log(value) if value > 0 else math.nan
        if quantity.change:
            start = self.start(quantity)
            value -= math.nan if start is None else start
        return None if math.isnan(value) else value

    def reached(self, until: Until) -> float | None:
        """The first step at which a metric is no less than a value, between two of its steps interpolated.

        None where it never is.

        >>> result = Result("a", 1, "", 6, "x", {"x": ([0, 2, 4, 6], [0.0, 0.5, 0.25, 0.75])})
        >>> asked = Until(reaches=0.5), Until(reaches=0.125), Until(reaches=0.4375, over=2), Until(reaches=1)
        >>> [result.reached(until) for until in asked]
        [2.0, 0.5, 5.0, None]
        """
        steps, values = self.metrics.get(until.metric or self.heldout, ([], []))
        before: tuple[int, float] | None = None
        for place in range(until.over, len(values) + 1):
            step, mean = steps[place - 1], math.fsum(values[place - until.over : place]) / until.over
            if mean >= until.reaches - 1e-9:
                if before is None:
                    return float(step)
                share = min(1.0, (until.reaches - before[1]) / (mean - before[1]))
                return before[0] + share * (step - before[0])
            before = step, mean
        return None

    def start(self, quantity: Quantity) -> float | None:
        """The same before training."""
        steps, values = self.metrics.get(quantity.metric or self.heldout, ([], []))
        if not steps or steps[0] != 0 or quantity.until or (quantity.log and values[0] <= 0):
            return None
        return math.log(values[0]) if quantity.log else values[0]


def span(quantity: Quantity, last: int) -> tuple[int, int]:
    """The first and the last step of a quantity; `all` leaves out the evaluation before training."""
    if isinstance(quantity.steps, tuple):
        return quantity.steps
    return (1, last) if quantity.steps == "all" else (last, last)


def result_of(cell: Cell, study: Study, stopped: str = "") -> Result:
    """What is kept of a run that ended, or that an alarm stopped before.

    Raises a DataError where it did not end, or lacks a metric that is asked for.
    """
    saved = SavedRun.read(Path(cell.recipe.run_dir))
    if saved.step == cell.recipe.steps:
        stopped = ""  # by an alarm of its very last step
    elif not stopped:
        raise DataError(
            f"{cell.name} ended well and has {saved.step} of {cell.recipe.steps} steps, in {saved.path}; a command "
            "must end with the exit code of the training (in a shell: exec, or set -o pipefail)"
        )
    kept = saved.rows
    wanted = dict.fromkeys([*CURVES, *filter(None, study.metrics)])
    names = dict.fromkeys(name for row in kept for name in row)
    wanted |= dict.fromkeys(name for name in names if name.startswith("eval/"))
    metrics = {}
    for name in wanted:
        steps, values = saved.series(name)
        if steps:
            metrics[name] = (steps, [float(f"{value:.{DIGITS}g}") for value in values])
    for metric in [] if stopped else study.metrics:
        if (metric or saved.heldout) not in names:
            raise DataError(f"the runs have no metric {metric!r}.{nearest(metric, names)}")
    exact = [{name: row[name] for name in sorted(row) if not name.startswith(EXEMPT)} for row in kept]
    seconds = {name: round(math.fsum(saved.series(f"time/{name}")[1]), 3) for name in SECONDS}
    return Result(
        arm=cell.arm,
        seed=cell.seed,
        settings=cell.digest,
        step=saved.step,
        heldout=saved.heldout or "",
        metrics=metrics,
        seconds={name: value for name, value in seconds.items() if value},
        stopped=stopped,
        run=hashlib.sha256(json.dumps(exact).encode()).hexdigest()[:16],
        versions=next((start["versions"] for start in reversed(saved.starts) if start.get("versions")), versions()),
    )


def load_results(path: Path) -> list[Result]:
    """The results in a file; none where there is none. Raises a DataError that names a line which is no result."""
    if not path.is_file():
        return []
    adapter = TypeAdapter(Result)
    results = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            results.append(adapter.validate_json(line))
        except ValidationError as error:
            where = ".".join(str(part) for part in error.errors()[0]["loc"])
            what = f"{where}: " if where else ""
            raise DataError(
                f"{path}, line {number} is no result of a study ({what}{error.errors()[0]['msg']}); delete the line, "
                "and the same command runs its cell again"
            ) from error
    return results


def save_results(path: Path, results: Sequence[Result]) -> None:
    """Write all results, a line each, whole or not at all."""
    write_text(path, "".join(json.dumps(asdict(result), allow_nan=False) + "\n" for result in results))
