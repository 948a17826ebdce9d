"""The table of a study, as Markdown and as CSV: nothing in it depends on time or machine speed."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence

from sieverl.study.compare import Compared, Estimate, Judged, differences, estimate, judge, of_arm, starts
from sieverl.study.plan import Quantity, Study
from sieverl.study.results import Result

BASE = "before training"
CSV_HEAD = ("arm", "metric", "seeds", "mean", "low", "high")
CSV_DIFFERENCE = ("difference_seeds", "difference", "difference_low", "difference_high")
SIGNS = {"higher": ">", "lower": "<", "same": "=", "no lower": "≥", "no higher": "≤"}


def judged(study: Study, results: Sequence[Result]) -> list[Judged]:
    """The verdict on every claim."""
    steps = max((result.step for result in results), default=0)
    return [judge(claim, study, results, steps) for claim in study.claims]


def csv_text(study: Study, results: Sequence[Result]) -> str:
    """One line for each arm and column, with six digits; empty where nothing was measured."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*CSV_HEAD, *CSV_DIFFERENCE])
    nothing = Estimate(0, None)
    for quantity in study.shown:
        for arm, own, difference in rows(study, results, quantity):
            beside = difference or nothing
            numbers = [own.mean, own.low, own.high], [beside.mean, beside.low, beside.high]
            writer.writerow(
                [arm, quantity.title, own.seeds, *map(_exact, numbers[0]), beside.seeds, *map(_exact, numbers[1])]
            )
    return file.getvalue()


def rows(
    study: Study, results: Sequence[Result], quantity: Quantity
) -> Iterator[tuple[str, Estimate, Estimate | None]]:
    """For the start and each arm: the estimate of a column, and of its difference to the baseline."""
    yield BASE, starts(results, quantity), None
    for arm in study.arms:
        own = of_arm(results, arm, quantity)
        other = differences(results, quantity, arm, study.baseline) if arm != study.baseline else None
        yield arm, estimate([own[seed] for seed in sorted(own)]), None if other is None else estimate(other)


def markdown(study: Study, results: Sequence[Result]) -> str:
    """The table and the verdicts."""
    parts = [study.about.strip(), "", *arm_table(study, results)]
    stopped = [f"- {result.arm}, seed {result.seed}: {result.stopped}" for result in results if result.stopped]
    if stopped:
        parts += ["", "Stopped by an alarm, and not in the columns of later steps:", "", *stopped]
    for one in judged(study, results):
        parts += ["", *claim_lines(one, study.baseline)]
    return "\n".join(parts).strip() + "\n"


def arm_table(study: Study, results: Sequence[Result]) -> list[str]:
    """A row an arm: means over seeds with 95% intervals, the first column also beside the baseline."""
    head = ["arm", "seeds", study.shown[0].title, f"difference to {study.baseline}"]
    head += [quantity.title for quantity in study.shown[1:]]
    columns = [list(rows(study, results, quantity)) for quantity in study.shown]
    lines = [f"| {' | '.join(head)} |", "|-" * len(head) + "|"]
    for place, (arm, own, difference) in enumerate(columns[0]):
        first = study.shown[0]
        beside = "" if difference is None else of(first, difference, signed=True)
        cells = [arm, str(own.seeds), of(first, own), beside]
        cells += [of(one, column[place][1]) for one, column in zip(study.shown[1:], columns[1:], strict=True)]
        lines.append(f"| {' | '.join(cells)} |")
    return [
        *lines,
        "",
        f"{len(results)} runs; mean over seeds, with the 95% interval (differences paired by seed).",
    ]


def claim_lines(one: Judged, baseline: str) -> list[str]:
    """A claim, its verdict and its comparisons."""
    why = f" ({one.why})" if one.why else ""
    lines = [f"**{one.verdict[:1].upper()}{one.verdict[1:]}{why}:** {one.claim.text}", ""]
    lines += ["| compared | expected | difference | p (Holm) | verdict |", "|-|-|-|-|-|"]
    lines += [f"| {' | '.join(comparison_cells(each, baseline))} |" for each in one.compared]
    return [*lines, "", one.claim.note] if one.claim.note else lines


def comparison_cells(each: Compared, baseline: str) -> list[str]:
    """The cells of a comparison: what, expected, difference, p, verdict."""
    one = each.comparison
    times = "a factor of " if one.log else ""
    by = "by" if one.expect in ("higher", "lower") else "within"
    margin = f" {by} {times}{one.margin:g}" if one.margin else ""
    p = "" if each.p is None else f"{each.p:.3f}" if each.p >= 0.001 else "< 0.001"
    what = f"{one.title}: {one.arm} {SIGNS[one.expect]} {one.against or baseline}"
    return [what, f"{one.expect}{margin}", of(one, each.difference, signed=True), p, each.verdict]


def of(quantity: Quantity, value: Estimate, signed: bool = False) -> str:
    """An estimate of a quantity: of one by ratio the geometric mean or the factor, with its interval.

    >>> of(Quantity(log=True), Estimate(3, 0.0, -0.6931, 0.6931), signed=True)
    'x 1.00 (0.50 to 2.00)'
    """
    if not quantity.log or value.mean is None:
        return shown(value, signed)
    sign, digits = ("x ", 2) if signed else ("", 0 if value.mean > 5 else 3)
    ends = [math.exp(min(end, 700.0)) for end in (value.mean, value.low, value.high) if end is not None]
    text = [f"{end:,.{digits}f}" for end in ends]
    return sign + (f"{text[0]} ({text[1]} to {text[2]})" if len(text) == 3 else text[0])


def shown(value: Estimate, signed: bool = False) -> str:
    """An estimate as a table shows it.

    >>> shown(Estimate(8, 0.5, 0.45, 0.55)), shown(Estimate(8, 12345.6, 12300, 12391)), shown(Estimate(1, 0.001), True)
    ('0.500 ± 0.050', '12,346 ± 45', '+0.00100')
    """
    if value.mean is None:
        return "–"
    half = 0.0 if value.high is None else value.high - value.mean
    largest = max(abs(value.mean), half)
    decimals = 0 if largest >= 1000 else 3 if largest >= 0.05 else 5
    mean = f"{value.mean:{'+' if signed else ''},.{decimals}f}"
    return mean if value.high is None else f"{mean} ± {half:,.{decimals}f}"


def _exact(number: float | None) -> str:
    return "" if number is None else f"{number:.6g}"
