"""The tables of a report: what a reader wants first, the evaluations, the statuses, the environment, the recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from sieverl.display.axes import shown
from sieverl.display.report.arms import Arm, differing, flat, points_of, value_of
from sieverl.display.report.content import Fact, Table, cut, spread
from sieverl.display.report.figures import Steps, saved
from sieverl.evaluation.statistics import over_seeds
from sieverl.run_dir import manifest
from sieverl.run_dir.saved import SavedRun
from sieverl.types import JsonObject, Metrics

ROWS = 12  # evaluations, at most
KEYS = 400  # of a recipe or an environment, at most
STARTS = 4
SHORT = 200  # characters of a value
STATUSES = {"no answer": "verify/no_answer", "truncated": "rollout/truncated"}  # shares
COUNTED = {"verifier timeouts": "verify/timeouts", "verifier errors": "verify/errors"}  # numbers of responses


def facts(run: SavedRun, steps: Steps) -> list[Fact]:
    """What a reader wants first, of one run."""
    ended = f"step {run.step} of {run.steps}" if run.steps else f"step {run.step}"
    before, after = held_of(run)
    out = [Fact("algorithm", cut(run.setting("algorithm") or "not known", 60)), Fact("model", *model(run))]
    out.append(Fact("trained to", ended, "" if run.steps == run.step else "still going, or it was cut off"))
    if before and after:
        out.append(
            Fact(
                f"held-out accuracy, {scored(run)}", f"{before[0]} \u2192 {after[0]}", f"{before[1]} \u2192 {after[1]}"
            )
        )
    kept = points_of(run, "select/kept_fraction").values()
    if kept:
        out.append(Fact("responses kept", shown(fmean(kept), True), "mean over the steps"))
    if read := steps.get(run.path):
        out.append(Fact("tokens saved by selection", f"{saved(read):.0%}", "not computed by the learner"))
    out.append(Fact("time", duration(seconds(run)), "sampling, updates and evaluations"))
    return out


def overview(arms: Sequence[Arm], steps: Steps) -> list[Table]:
    """What a reader wants first, of several runs: a row a run, and a row for runs that differ only in their seed."""
    rows = []
    for arm in arms:
        for run in arm.runs:
            before, after = held_of(run)
            kept = points_of(run, "select/kept_fraction").values()
            first = [" ".join(one) if one else "" for one in (before, after)]
            last = [shown(fmean(kept), True) if kept else "", f"{saved(r):.0%}" if (r := steps.get(run.path)) else ""]
            ended = f"{run.step} of {run.steps}" if run.steps else f"{run.step}"
            rows.append([run.name, cut(run.setting("algorithm"), 60), ended, *first, *last, duration(seconds(run))])
    head = ["run", "algorithm", "steps", "held out, before", "held out, after", "kept", "tokens saved", "time"]
    about = "Held-out accuracy with its 95% interval over prompts."
    return [Table("Runs", head, rows, about), *seeds(arms)]


def seeds(arms: Sequence[Arm]) -> list[Table]:
    """The mean of the runs that differ only in their seed."""
    rows = []
    for arm in arms:
        ends = [(p[min(p)], p[max(p)]) for run in arm.runs if (p := points_of(run, run.heldout or ""))]
        if len(arm.runs) > 1 and ends:
            rows.append([arm.label, *(interval_text(*over_seeds(side)) for side in zip(*ends, strict=True))])
    about = "Mean of each run's first and last evaluation, with its 95% interval (Student's t) over the seeds."
    return [Table("Mean over seeds", ["runs", "held out, before", "held out, after"], rows, about)] if rows else []


def held_of(run: SavedRun) -> tuple[tuple[str, str], tuple[str, str]] | tuple[None, None]:
    """The first and the last held-out accuracy, each with its interval, as texts."""
    metric = run.heldout
    rows = [row for row in run.rows if metric and value_of(row, metric) is not None]
    if metric is None or not rows:
        return None, None
    first, last = (score(row, metric) for row in (rows[0], rows[-1]))
    return first, last


def score(row: Metrics, metric: str) -> tuple[str, str]:
    """A score and its interval in brackets, as texts.

    >>> score({"eval/a/avg@4": 0.5, "eval_ci/a/avg@4/low": 0.4, "eval_ci/a/avg@4/high": 0.625}, "eval/a/avg@4")
    ('50%', '(40% to 62.5%)')
    """
    ci = metric.replace("eval/", "eval_ci/", 1)
    value, low, high = (value_of(row, name) for name in (metric, f"{ci}/low", f"{ci}/high"))
    bounds = "" if low is None or high is None else f"({shown(low, True)} to {shown(high, True)})"
    return ("" if value is None else shown(value, True)), bounds


def interval_text(mean: float | None, low: float | None, high: float | None) -> str:
    """A mean and its interval."""
    text = "" if mean is None else shown(mean, True)
    return text if low is None or high is None else f"{text} ({shown(low, True)} to {shown(high, True)})"


def scored(run: SavedRun) -> str:
    """The name of the held-out score, such as avg@4."""
    return cut((run.heldout or "").rpartition("/")[2], 20)


def model(run: SavedRun) -> tuple[str, str]:
    """The model of a run, and its size."""
    start = run.starts[-1] if run.starts else {}
    count = start.get("parameters")
    size = f"{shown(count)} parameters" if isinstance(count, int) else ""
    return cut(run.setting("model.path") or "the shipped model", 80), ", ".join(
        x for x in (cut(start.get("model"), 40), size) if x
    )


def seconds(run: SavedRun) -> float:
    """Of all steps and evaluations."""
    return sum(sum(points_of(run, f"time/{name}").values()) for name in ("step", "evaluate"))


def duration(seconds: float) -> str:
    """A time as people say it.

    >>> duration(42), duration(135), duration(7260)
    ('42 s', '2 min 15 s', '2 h 1 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600:,} h {whole % 3600 // 60} min"


# --- evaluations and statuses -----------------------------------------------------------------------


def evaluation(run: SavedRun, named: bool = False) -> list[Table]:
    """The evaluations of a run, a row each: every score with its interval, and what else was measured."""
    rows = [row for row in run.rows if any(name.startswith("eval/") for name in row)]
    names = list(dict.fromkeys(name for row in rows for name in row if name.startswith("eval/")))[:ROWS]
    if not rows:
        return []
    chosen = spread(range(len(rows)), ROWS)
    cells = [[f"{rows[i]['step']}", *(measured(rows[i], name) for name in names)] for i in chosen]
    head = ["step", *(cut(name.rpartition("/")[2].replace("_", " "), 40) for name in names)]
    left = f" {len(rows) - len(chosen)} evaluations between are left out." if len(rows) > len(chosen) else ""
    about = f"On held-out prompts, with 95% intervals over prompts; kl ref is in nats a token.{left}"
    return [Table(f"Evaluations of {run.name}" if named else "Evaluations", head, cells, about, named)]


def measured(row: Metrics, name: str) -> str:
    """A number of an evaluation."""
    value = value_of(row, name)
    if value is None:
        return ""
    share = "@" in name or name.endswith(("/truncated", "/no_answer"))
    return " ".join(score(row, name)).strip() if share else shown(value)


def statuses(runs: Sequence[SavedRun]) -> list[Table]:
    """What became of the responses of training."""
    rows = []
    for run in runs:
        total = sum(points_of(run, "rollout/responses").values())
        shares = [points_of(run, metric).values() for metric in STATUSES.values()]
        counts = [points_of(run, metric).values() for metric in COUNTED.values()]
        if total:
            cells = [shown(fmean(values), True) if values else "" for values in shares]
            cells += [f"{sum(values):,.0f} ({shown(sum(values) / total, True)})" if values else "" for values in counts]
            rows.append([run.name, f"{total:,.0f}", *cells])
    about = "Of all responses in training. Good: no timeouts and no errors; both count as wrong whatever was answered."
    head = ["run", "responses", *STATUSES, *COUNTED]
    return [Table("Statuses", head, rows, about)] if rows else []


# --- what it was run with ---------------------------------------------------------------------------


def differences(runs: Sequence[SavedRun]) -> list[Table]:
    """The keys in which the recipes of several runs differ."""
    found = differing(runs)[:KEYS]
    rows = [[cut(key, SHORT), *(cut(value, SHORT) for value in values)] for key, values in found]
    about = "" if rows else "The recipes are the same but for the directory."
    return [Table("Differences of the recipes", ["key", *(run.name for run in runs)], rows, about)]


def background(runs: Sequence[SavedRun]) -> list[Table]:
    """The environment of each start and the recipe, of each run; long, and so folded."""
    out = []
    for run in runs:
        of = f" of {run.name}" if len(runs) > 1 else ""
        starts = [flat({**start, **hashes(run)} if i == 0 else start) for i, start in enumerate(run.starts[-STARTS:])]
        keys = list(dict.fromkeys(key for start in starts for key in start))[:KEYS]
        rows = [[cut(key, SHORT), *(cut(start.get(key), SHORT) for start in starts)] for key in keys]
        head = ["", *(f"start at step {cut(start.get('step', '?'), 20)}" for start in starts)]
        about = "Versions, device, and SHA-256 of data and weights, as each start of the run wrote them."
        if rows:
            out.append(Table(f"Environment{of}", head, rows, about, folded=True))
        settings = list(flat(run.recipe).items())[:KEYS]
        if settings:
            out.append(
                Table(f"Recipe{of}", ["key", "value"], [[cut(k, SHORT), cut(v, SHORT)] for k, v in settings], "", True)
            )
    return out


def hashes(run: SavedRun) -> JsonObject:
    """The SHA-256 of the weights in the newest checkpoint, as its manifest has it."""
    for step in run.checkpoints[-1:]:
        found: Mapping[str, str] = manifest.read_manifest(run.path / "checkpoints" / f"{manifest.PREFIX}{step}") or {}
        weights = {
            name: value for name, value in found.items() if name.endswith(".safetensors") and "training" not in name
        }
        return {f"checkpoint of step {step}": weights} if weights else {}
    return {}
