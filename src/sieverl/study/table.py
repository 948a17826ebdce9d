"""The table of a study, as Markdown and as CSV: nothing in it depends on time or machine speed."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence

from sieverl.study.compare import Compared, Estimate, Judged, differences, estimate, judge, of_arm, seeds_of, starts
from sieverl.study.plan import Quantity, Study
from sieverl.study.results import Result

BASE, BAR = "before training", "\\|"
CSV_HEAD = ("arm", "metric", "seeds", "mean", "low", "high")
CSV_DIFFERENCE = ("difference_seeds", "difference", "difference_low", "difference_high")
DECIMALS = ((1, 2.0), (2, 0.2), (3, 0.002), (4, 0.0002))  # how many, from which interval on
SIGNS = {"higher": ">", "lower": "<", "same": "=", "no lower": "≥", "no higher": "≤"}


def judged(study: Study, results: Sequence[Result]) -> list[Judged]:
    """The verdict on every claim."""
    return [judge(claim, study, results) for claim in study.claims]


def csv_text(study: Study, results: Sequence[Result]) -> str:
    """One line for each arm and column, with six digits; empty where nothing was measured.

    A column by ratio has geometric means, and factors for differences.
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*CSV_HEAD, *CSV_DIFFERENCE])
    nothing = Estimate(0, None)
    for quantity in study.shown:
        for arm, own, difference in rows(study, results, quantity):
            beside = difference or nothing
            cells = [*_numbers(quantity, own), *_numbers(quantity, beside)]
            writer.writerow([arm, quantity.title, *cells])
    return file.getvalue()


def _numbers(quantity: Quantity, value: Estimate) -> list[int | str]:
    ends = (value.mean, value.low, value.high)
    return [value.seeds, *("" if end is None else f"{quantity.plain(end):.6g}" for end in ends)]


def rows(
    study: Study, results: Sequence[Result], quantity: Quantity
) -> Iterator[tuple[str, Estimate, Estimate | None]]:
    """For the start and each arm: the estimate of a column, and of its difference to the baseline."""
    yield BASE, starts(results, quantity), None
    for arm in study.arms:
        own = of_arm(results, arm, quantity)
        other = differences(results, quantity, arm, study.baseline) if study.baseline not in ("", arm) else None
        yield arm, estimate([own[seed] for seed in sorted(own)]), None if other is None else estimate(other)


def markdown(study: Study, results: Sequence[Result]) -> str:
    """The table and the verdicts."""
    parts = [study.about.strip(), "", *arm_table(study, results)]
    stopped = [f"- {result.arm}, seed {result.seed}: {result.stopped}" for result in results if result.stopped]
    if stopped:
        parts += ["", "Stopped by an alarm, and without the numbers of later steps:", "", *stopped]
    for one in judged(study, results):
        parts += ["", *claim_lines(one, study.baseline)]
    return "\n".join(parts).strip() + "\n"


def arm_table(study: Study, results: Sequence[Result]) -> list[str]:
    """A row an arm: means over seeds with 95% intervals, the first column also beside the baseline.

    The row before training is left out where it has nothing, since arms begin with different things.
    """
    titles = [quantity.title for quantity in study.shown]
    if study.baseline:
        titles.insert(1, f"difference to {study.baseline}")
    head = ["arm", "seeds", *titles]
    lines = [line(head), "|-" * len(head) + "|"]
    columns = [list(rows(study, results, quantity)) for quantity in study.shown]
    for place, (arm, _, difference) in enumerate(columns[0]):
        known = max(column[place][1].seeds for column in columns)
        if arm == BASE and not known:
            continue
        runs = 0 if arm == BASE else len(seeds_of(results, arm))
        cells = [of(one, column[place][1], one.change, runs) for one, column in zip(study.shown, columns, strict=True)]
        if study.baseline:
            pairs = len(seeds_of(results, arm, study.baseline))
            cells.insert(1, "" if difference is None else of(study.shown[0], difference, signed=True, runs=pairs))
        lines.append(line([arm, str(runs or known), *cells]))
    return [
        *lines,
        "",
        f"{runs_of(study, results)}; mean over seeds, with the 95% interval (differences paired by seed).",
    ]


def runs_of(study: Study, results: Sequence[Result]) -> str:
    """How many runs there are, and of how many."""
    return f"{study.size} runs" if len(results) == study.size else f"{len(results)} of {study.size} runs so far"


def moved(study: Study, result: Result) -> str:
    """The first column that training moves, before and after a run.

    >>> result = Result("a", 1, "", 3, "eval/x/avg@4", {"eval/x/avg@4": ([0, 3], [0.25, 0.5])})
    >>> columns = [Quantity(steps=(0, 0)), Quantity()]
    >>> moved(Study(seeds=[1], arms={"a": {}}, columns=columns), result)
    '0.250 -> 0.500'
    """
    first = next((one for one in study.shown if one.steps != (0, 0) and not one.change), study.shown[0])
    found = [value for value in (result.start(first), result.value(first)) if value is not None]
    return " -> ".join(f"{first.plain(value):.3f}" for value in found)


def claim_lines(one: Judged, baseline: str) -> list[str]:
    """A claim, its verdict and its comparisons."""
    why = f" ({one.why})" if one.why else ""
    lines = [f"**{one.verdict[:1].upper()}{one.verdict[1:]}{why}:** {one.claim.text}", ""]
    lines += ["| compared | expected | difference | p (Holm) | verdict |", "|-|-|-|-|-|"]
    lines += [line(comparison_cells(each, baseline)) for each in one.compared]
    return [*lines, "", one.claim.note] if one.claim.note else lines


def comparison_cells(each: Compared, baseline: str) -> list[str]:
    """The cells of a comparison: what, expected, difference, p, verdict."""
    one = each.comparison
    times = "a factor of " if one.log else ""
    by = "by" if one.expect in ("higher", "lower") else "within"
    margin = f" {by} {times}{one.margin:g}" if one.margin else ""
    p = "" if each.p is None else f"{each.p:.3f}" if each.p >= 0.001 else "< 0.001"
    what = f"{one.title}: {one.arm} {SIGNS[one.expect]} {one.against or baseline}"
    difference = of(one, each.difference, signed=True, runs=each.difference.seeds + each.without)
    return [what, f"{one.expect}{margin}", difference, p, each.verdict]


def line(cells: Sequence[str]) -> str:
    """A row of a Markdown table.

    >>> line(["a", "b|c"])
    '| a | b\\\\|c |'
    """
    return f"| {' | '.join(cell.replace('|', BAR) for cell in cells)} |"


def of(quantity: Quantity, value: Estimate, signed: bool = False, runs: int = 0) -> str:
    """An estimate of a quantity: of one by ratio the geometric mean or the factor, with its interval.

    Where fewer than `runs` seeds have it, that is said.

    >>> of(Quantity(log=True), Estimate(3, 0.0, -0.6931, 0.6931), signed=True, runs=4)
    'x 1.00 (0.50 to 2.00), 3 of 4 seeds'
    """
    if value.mean is None:
        return f"none of {runs} seeds" if runs else "–"
    text = shown(value, signed)
    if quantity.log:
        mean, *ends = (figures(quantity.plain(end)) for end in (value.mean, value.low, value.high) if end is not None)
        text = f"{'x ' if signed else ''}{mean}" + (f" ({' to '.join(ends)})" if ends else "")
    return text + (f", {value.seeds} of {runs} seeds" if value.seeds < runs else "")


def figures(number: float) -> str:
    """A number above 0 with two to three significant digits, or all that are left of the point.

    >>> [figures(number) for number in (12345.6, 48.369, 2.0, 0.567, 0.00431)]
    ['12,346', '48.4', '2.00', '0.57', '0.0043']
    """
    return f"{number:,.{0 if number >= 100 else 1 if number >= 10 else 2}f}" if number >= 0.095 else f"{number:.2g}"


def shown(value: Estimate, signed: bool = False) -> str:
    """An estimate as a table shows it: as many decimals as its interval bears.

    >>> shown(Estimate(8, 0.5, 0.45, 0.55)), shown(Estimate(8, 0.5, 0.499, 0.501)), shown(Estimate(1, 0.001))
    ('0.500 ± 0.050', '0.5000 ± 0.0010', '0.00100')
    >>> shown(Estimate(8, 34.678, 34.356, 35.0)), shown(Estimate(8, 21.02, 9.22, 32.82))
    ('34.68 ± 0.32', '21.0 ± 11.8')
    >>> shown(Estimate(8, 12345.6, 12300, 12391), signed=True)
    '+12,346 ± 45'
    """
    if value.mean is None:
        return "–"
    half = 0.0 if value.high is None else value.high - value.mean
    fine = half or abs(value.mean) / 25  # what the last decimals tell apart
    decimals = next((place for place, least in DECIMALS if fine >= least), 5) if fine else 3
    if max(abs(value.mean), half) >= 1000:
        decimals = 0
    mean = f"{value.mean:{'+' if signed else ''},.{decimals}f}"
    return mean if value.high is None else f"{mean} ± {half:,.{decimals}f}"
