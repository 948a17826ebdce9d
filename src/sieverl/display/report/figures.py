"""The charts of a report, each with a sentence that says what good looks like."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from sieverl.display.axes import Limits
from sieverl.display.charts import Series, bar_chart, heat_map, line_chart
from sieverl.display.report.arms import Arm, points_of, value_of
from sieverl.display.report.content import Figure
from sieverl.display.report.responses import BINS, Counts, StepRead, pass_curve
from sieverl.evaluation.statistics import over_seeds

SHARE: Limits = (0.0, 1.0)
PARTS = 8  # of a reward, at most
PHASES = ("rollout", "update", "evaluate")
Steps = Mapping[Path, Sequence[StepRead]]  # a run -> its steps
Evaluations = Mapping[Path, Sequence[Counts]]  # a run -> its evaluations


def figures(arms: Sequence[Arm], steps: Steps, evaluated: Evaluations) -> Iterator[Figure]:
    """Every chart for which something was measured."""
    yield from accuracy(arms)
    yield from rewards(arms)
    yield from selection(arms, steps)
    yield from policy(arms)
    yield from passes(arms, evaluated)
    yield from work(arms, steps)


def lines(
    name: str, title: str, arms: Sequence[Arm], metrics: Mapping[str, str], y_label: str, good: str, share: bool = False
) -> Iterator[Figure]:
    """Metrics by label over the steps: of one arm in one chart, of several in a chart each, with a line an arm."""
    if len(arms) == 1:
        series = [arms[0].series(metric, label) for label, metric in metrics.items()]
        series = [one for one in series if any(y is not None for y in one.y)]
        if series:
            yield Figure(
                name, line_chart(title, series, "step", y_label, SHARE if share else (None, None), share), good
            )
        return
    for number, (label, metric) in enumerate(metrics.items(), 1):
        series = [replace(arm.series(metric, smooth=True), tone=i) for i, arm in enumerate(arms)]
        if any(y is not None for one in series for y in one.y):
            whole = f"{title}: {label}" if len(metrics) > 1 else title
            chart = line_chart(
                f"{whole}, running mean", series, "step", y_label, SHARE if share else (None, None), share
            )
            yield Figure(f"{name}-{number}" if len(metrics) > 1 else name, chart, good)


# --- what was reached -------------------------------------------------------------------------------


def accuracy(arms: Sequence[Arm]) -> Iterator[Figure]:
    """Accuracy on the prompts of training and on held-out ones."""
    series: list[Series] = []
    alone = len(arms) == 1
    for place, arm in enumerate(arms):
        if alone and len(arm.runs) == 1:
            series.append(replace(arm.series("reward/accuracy", "training, each step"), style="faint", tone=0))
        label = "training, running mean" if alone else arm.label
        series.append(replace(arm.series("reward/accuracy", label, smooth=True), tone=place))
        if held := heldout(arm):
            series.append(held if alone else replace(held, label="", notes=[arm.label] * len(held.x), tone=place))
    if any(y is not None for one in series for y in one.y):
        name = "Accuracy" if alone else "Accuracy: lines in training, running mean; dots held out"
        chart = line_chart(name, series, "step", "share of responses that are correct", SHARE, True)
        good = "Good: the dots rise with the line; a line that rises alone is learning its own prompts by heart."
        yield Figure("accuracy", chart, good)


def heldout(arm: Arm) -> Series | None:
    """The held-out accuracy, with the interval over prompts for one run and over seeds for several."""
    values: dict[int, list[float]] = {}
    for run in arm.runs:
        for step, value in points_of(run, run.heldout or "").items():
            values.setdefault(step, []).append(value)
    if not values:
        return None
    steps = sorted(values)
    ends = [over_seeds(values[step]) for step in steps]
    metric = next(run.heldout for run in arm.runs if run.heldout)
    over = f"mean of {len(arm.runs)} seeds, 95% interval"
    if len(arm.runs) == 1:
        rows = {int(row["step"]): row for row in arm.runs[0].rows}
        ci, over = metric.replace("eval/", "eval_ci/", 1), "95% interval"
        ends = [(values[s][0], value_of(rows[s], f"{ci}/low"), value_of(rows[s], f"{ci}/high")) for s in steps]
    mean, low, high = zip(*ends, strict=True)
    return Series(f"held out, {metric.rpartition('/')[2]}, {over}", steps, mean, low, high, "dots", tone=1)


def rewards(arms: Sequence[Arm]) -> Iterator[Figure]:
    """The mean reward where it is not the accuracy, and the parts of a sum."""
    runs = [run for arm in arms for run in arm.runs]
    pairs = [(row.get("reward/mean"), row.get("reward/accuracy")) for run in runs for row in run.rows]
    if any(a is not None and a != b for a, b in pairs):
        good = "Good: it rises with the accuracy; a reward that rises without it is being gamed."
        yield from lines("reward", "Mean reward", arms, {"mean reward": "reward/mean"}, "reward", good)
    named = dict.fromkeys(key for run in runs for row in run.rows for key in row if is_part(key))
    parts = {key.removeprefix("reward/").removesuffix("/mean"): key for key in list(named)[:PARTS]}
    if parts:
        good = "Good: the part that says what is correct rises; the others must not buy its loss."
        good += f" The first {PARTS} of {len(named)} parts are shown." if len(named) > PARTS else ""
        yield from lines("reward-parts", "Parts of the reward", arms, parts, "mean over responses", good)


def is_part(metric: str) -> bool:
    """Whether a metric is the mean of a part of the reward.

    >>> is_part("reward/brief/mean"), is_part("reward/mean")
    (True, False)
    """
    return metric.startswith("reward/") and metric.endswith("/mean") and metric.count("/") > 1


def passes(arms: Sequence[Arm], evaluated: Evaluations) -> Iterator[Figure]:
    """pass@k for k = 1, 2, 4, ...: before and after for one arm, after for several."""
    series = []
    for arm in arms:
        found = evaluated.get(arm.runs[0].path, ())
        ends = [*found[:1], *found[1:][-1:]] if len(arms) == 1 else found[-1:]
        for one in ends:
            curve = pass_curve(one)
            mean, low, high = zip(*curve.values(), strict=True)
            label = f"step {one.step}" if len(arms) == 1 else f"{arm.runs[0].name}, step {one.step}"
            series.append(Series(label, list(curve), mean, low, high, "path"))
    if series:
        good = (
            "Good: the whole curve is higher after training; if only its left end is, the model says more surely what"
        )
        chart = line_chart("pass@k on held-out prompts", series, "k, responses to a prompt", "pass@k", SHARE, True)
        yield Figure("pass-at-k", chart, f"{good} it could say before.")


# --- selection --------------------------------------------------------------------------------------


def selection(arms: Sequence[Arm], steps: Steps) -> Iterator[Figure]:
    """What is kept, and how many of the responses to a prompt are correct."""
    metrics = {
        "kept": "select/kept_fraction",
        "groups all wrong": "select/all_wrong",
        "groups all correct": "select/all_correct",
    }
    good = "Good: all wrong falls and something stays kept; when nearly all groups are correct, harder prompts are due."
    yield from lines("selection", "Kept and rejected", arms, metrics, "share", good, share=True)
    found = steps.get(arms[0].runs[0].path, ())
    if len(arms) == 1 and found:
        rates = [one.rates for one in found]
        name = "Solve rate of the prompts" + (f", {arms[0].runs[0].name}" if len(arms[0].runs) > 1 else "")
        chart = heat_map(name, [one.step for one in found], BINS, rates, "step")
        good = "Good: the colour wanders upwards; what lies between the first and the last row is what teaches."
        yield Figure("solve-rate", chart, good)


# --- the policy -------------------------------------------------------------------------------------


def policy(arms: Sequence[Arm]) -> Iterator[Figure]:
    """Entropy, KL, KL efficiency, length."""
    good = "Good: it falls slowly and stays above zero; a fall to zero means that the model tries nothing new."
    yield from lines("entropy", "Entropy", arms, {"entropy": "policy/entropy"}, "nats a token", good)
    good = "Good: small and level; a rise means that an update moves the policy too far, or that responses are stale."
    yield from lines("kl-old", "KL to the policy before the step", arms, {"KL": "policy/kl_old"}, "nats a token", good)
    yield from reference(arms)
    good = "Good: as long as the task needs; a steady rise up to the limit is often the sign of rambling."
    yield from lines("length", "Length of responses", arms, {"mean length": "rollout/length_mean"}, "tokens", good)
    metrics = {"no answer": "verify/no_answer", "truncated": "rollout/truncated"}
    good = "Good: near zero; a response without an answer, or cut off, teaches the form and not the task."
    yield from lines("statuses", "No answer, and truncated", arms, metrics, "share of responses", good, share=True)


def reference(arms: Sequence[Arm]) -> Iterator[Figure]:
    """Held-out accuracy against the KL to the reference policy: what each nat buys."""
    series = []
    for arm in arms:
        for run in arm.runs:
            metric = run.heldout
            kl = points_of(run, f"{metric.rsplit('/', 1)[0]}/kl_ref") if metric else {}
            score = points_of(run, metric) if metric else {}
            both = [step for step in score if step in kl]
            if both:
                label = run.name if len(arms) > 1 or len(arm.runs) > 1 else ""
                x, y = [kl[s] for s in both], [score[s] for s in both]
                notes = [f"step {s}" for s in both]
                series.append(Series(label, x, y, (), (), "path", None if len(arms) == 1 else arms.index(arm), notes))
    if series:
        x_label, y_label = "KL to the reference policy, nats a token", "held-out accuracy"
        chart = line_chart("Accuracy against KL", series, x_label, y_label, (None, None), True, whole=False)
        good = "Good: high and to the left, much accuracy for little change; each dot is an evaluation."
        yield Figure("accuracy-kl", chart, good)


# --- time and tokens --------------------------------------------------------------------------------


def work(arms: Sequence[Arm], steps: Steps) -> Iterator[Figure]:
    """Time by phase; tokens sampled, and computed by the learner."""
    totals = [phases(arm) for arm in arms]
    names = [name for name in (*PHASES, "other") if any(total.get(name, 0.0) > 0 for total in totals)]
    if names:
        series = [Series(arm.label, [], [t.get(n) for n in names]) for arm, t in zip(arms, totals, strict=True)]
        good = "Good: most of it is sampling; where updating takes more, keep less or give it more memory."
        yield Figure("time", bar_chart("Time by phase, all steps", names, series, "s"), good)
    read = [[one for run in arm.runs for one in steps.get(run.path, ())] for arm in arms]
    if len(arms) == 1 and len(arms[0].runs) == 1 and read[0]:
        at = [float(one.step) for one in read[0]]
        series = [Series("sampled", at, [one.sampled for one in read[0]])]
        series.append(Series("computed by the learner", at, [one.computed for one in read[0]]))
        good = f"Good: the gap is work saved, {saved(read[0]):.0%} of the tokens of the steps that were read."
        yield Figure("tokens", line_chart("Tokens of a step", series, "step", "tokens", (0.0, None)), good)
    elif any(read):
        shares = [saved(found) if found else None for found in read]
        chart = bar_chart("Tokens saved by selection", [arm.label for arm in arms], [Series("", [], shares)], "%")
        yield Figure("tokens", chart, "Good: a larger share at the same accuracy is the same for less work.")


def phases(arm: Arm) -> dict[str, float]:
    """Seconds of all steps by phase, the mean of the runs; `other` is the rest of the steps."""
    names = (*PHASES, "step")
    totals = {name: fmean(sum(points_of(run, f"time/{name}").values()) for run in arm.runs) for name in names}
    other = totals.pop("step") - totals["rollout"] - totals["update"]
    return totals | ({"other": other} if other > 0.01 * sum(totals.values()) else {})


def saved(found: Sequence[StepRead]) -> float:
    """The share of the sampled tokens that the learner did not compute.

    >>> saved([StepRead(1, [], 100, 40), StepRead(2, [], 100, 20)])
    0.7
    """
    sampled = sum(one.sampled for one in found)
    return 1 - sum(one.computed for one in found) / sampled if sampled else 0.0
