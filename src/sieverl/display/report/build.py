"""Several saved runs become the content of one page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sieverl.display.report import examples, tables
from sieverl.display.report.arms import Arm, arms_of
from sieverl.display.report.content import Report, cut
from sieverl.display.report.figures import figures
from sieverl.display.report.responses import READ, evaluations, steps_read
from sieverl.run_dir.saved import SavedRun

PROBLEMS = 40  # said of a run, at most


def build(runs: Sequence[SavedRun]) -> Report:
    """The content of the report on these runs, at least one: all that can be read of them, and in words what cannot."""
    arms = arms_of(runs)
    alone = len(runs) == 1
    # of many runs fewer steps are read, and of seeds the first run's responses stand for all
    most = max(8, READ // len(runs))
    steps = {run.path: steps_read(run, most) for run in runs}
    evaluated = {arm.runs[0].path: evaluations(arm.runs[0], READ if alone else 1) for arm in arms}
    if alone:
        run = runs[0]
        shown = [*examples.groups(run), *examples.prompts(run, evaluated[run.path])]
        several = [*tables.evaluation(run), *tables.statuses(runs)]
    else:
        shown = []
        several = [*tables.overview(arms, steps), *tables.differences(runs), *tables.statuses(runs)]
        several += [table for one in runs for table in tables.evaluation(one, named=True)]
    return Report(
        title=title(runs),
        about=about(arms),
        facts=tables.facts(runs[0], steps) if alone else (),
        tables=several,
        figures=list(figures(arms, steps, evaluated)),
        examples=shown,
        background=tables.background(runs),
        problems=[f"{'' if alone else run.name + ': '}{cut(one, 300)}" for run in runs for one in problems(run)],
    )


def title(runs: Sequence[SavedRun]) -> str:
    """What the page is called."""
    return cut(runs[0].name, 80) if len(runs) == 1 else f"{len(runs)} runs"


def about(arms: Sequence[Arm]) -> str:
    """One line under the title."""
    if len(arms) == 1 and len(arms[0].runs) == 1:
        return "A report of SieveRL on one run: its rewards, what was kept of them, and what the model learned."
    curves = f"{len(arms)} curve{'s' if len(arms) > 1 else ''}"
    same = (
        "Runs that differ only in their seed are one curve: their mean, in a band that is its 95% interval over seeds."
    )
    return f"A report of SieveRL on several runs, {curves}. {same}"


def problems(run: SavedRun) -> Iterator[str]:
    """What of a run is not on the page, and why."""
    if not run.rows:
        yield "there is no row of metrics yet, so there are no curves"
    elif run.heldout is None:
        yield "it has no held-out evaluation, so nothing says what the model learned beyond its own prompts"
    if run.steps is not None and run.step != run.steps:
        yield f"it is at step {run.step} of {run.steps}: still going, or cut off"
    yield from missing(run)
    yield from run.problems[:PROBLEMS]
    if len(run.problems) > PROBLEMS:
        yield f"{len(run.problems) - PROBLEMS} more of the kind"


def missing(run: SavedRun) -> Iterator[str]:
    """Steps without a row, and steps without responses."""
    trained = [int(row["step"]) for row in run.rows if row["step"]]
    holes = [(a + 1, b - 1) for a, b in zip([0, *trained], trained, strict=False) if b - a > 1]
    if holes:
        parts = ", ".join(f"{a}" if a == b else f"{a} to {b}" for a, b in holes[:5])
        yield f"metrics.jsonl has no rows for steps {parts}{', ...' if len(holes) > 5 else ''}"
    lacking = sorted(set(trained) - set(run.logged["step"]))
    if lacking:
        some = ", ".join(map(str, lacking[:5])) + (", ..." if len(lacking) > 5 else "")
        yield f"no responses are logged of {len(lacking)} of {len(trained)} steps ({some})"
