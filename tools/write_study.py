"""The tables and figures of docs/study.md, from the results in studies/results: `python tools/write_study.py`."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pages import filled
from study_figures import RESULTS, Done, figures
from write_scaling import PAPER, chosen

from sieverl.evaluation.statistics import over_seeds, paired_interval, pass_at
from sieverl.study.compare import estimate, seeds_of
from sieverl.study.plan import Quantity, Until
from sieverl.study.results import Result
from sieverl.study.table import arm_table, claim_lines, comparison_cells, judged, line, of, rows, runs_of, shown

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "study.md"
TARGETS = (0.34, 0.36, 0.38, 0.40)  # held-out accuracies of the sieve's study
PASSES = (1, 2, 4, 8, 16)
OTHER_PASSES = ("raft", "iterative_dpo", "ppo")  # no log-probs before the update; pairs; a critic


# --- tables -----------------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join([line(head), "|-" * len(head) + "|", *map(line, rows)])


def size_of(done: Done) -> str:
    """How much was run, by which versions, and how long it took."""
    if not done.results:
        return f"{runs_of(done.study, [])}."
    hours = math.fsum(sum(run.seconds.get(part, 0.0) for part in ("step", "evaluate")) for run in done.results) / 3600
    versions = {f"{name} {number}" for run in done.results for name, number in run.versions.items() if number}
    wanted = sorted(text for text in versions if text.split()[0] in ("sieverl", "torch", "transformers"))
    return f"{runs_of(done.study, done.results)}, {hours:.1f} core-hours; {', '.join(wanted)}."


def rates_table(rates: Done) -> str:
    """Held-out accuracy after the sweep: a row for each algorithm, a column for each learning rate."""
    found: dict[str, dict[str, list[float]]] = {}
    for run in rates.results:
        arm, _, rate = run.arm.partition("-")
        value = run.value(Quantity())
        if value is not None:
            found.setdefault(arm, {}).setdefault(rate, []).append(value)
    if not found:
        return "No results yet."
    columns = sorted({rate for by in found.values() for rate in by}, key=float)
    rows = []
    for arm, by in found.items():
        means = {rate: math.fsum(values) / len(values) for rate, values in by.items()}
        best = max(means, key=lambda rate: means[rate])
        cells = [f"{means[rate]:.3f}" if rate in means else "" for rate in columns]
        rows.append(
            [arm, *(f"**{cell}**" if rate == best else cell for rate, cell in zip(columns, cells, strict=True))]
        )
    return table(["learning rate", *columns], rows)


def verdicts_table(studies: Sequence[Done]) -> str:
    """A row for each claim: its verdict in each study, with the differences that it rests on."""
    rows = []
    claims = [judged(done.study, done.results) for done in studies]
    for each in zip(*claims, strict=True):
        cells = []
        for done, one in zip(studies, each, strict=True):
            parts = [comparison_cells(compared, done.study.baseline) for compared in one.compared]
            said = "<br>".join(f"{what}: {difference}" for what, _, difference, _, _ in parts)
            cells.append(f"**{one.verdict}**<br>{said}")
        rows.append([each[0].claim.text, *cells])
    return table(["claim", *(done.name for done in studies)], rows)


def claims_of(done: Done) -> str:
    """Every claim with its comparisons."""
    lines = [text for one in judged(done.study, done.results) for text in (*claim_lines(one, done.study.baseline), "")]
    return "\n".join(
        text if text.startswith("|") else textwrap.fill(text, 118, break_on_hyphens=False) for text in lines
    )


def compute_table(done: Done, masking: str, other_passes: Container[str]) -> str:
    """What each arm paid: tokens, seconds, and its updates beside those of an arm that keeps everything.

    All arms sample the same number of tokens, so the seconds of that are what the machine was worth during a run;
    updates are compared by their ratio to them. Those of arms with other passes are not.
    """
    sampled = Quantity(metric="rollout/tokens", steps="all", reduce="sum")
    learnt = Quantity(metric="train/tokens", steps="all", reduce="sum")
    kept = Quantity(metric="select/kept_fraction", steps="all")
    all_of_it = {run.seed: _per_sampling(run) for run in done.runs(masking)}
    rows = []
    for arm in done.study.arms:
        runs = done.runs(arm)
        tokens = [estimate([v / 1e6 for run in runs if (v := run.value(q)) is not None]) for q in (sampled, learnt)]
        pairs = [(_per_sampling(run), all_of_it[run.seed]) for run in runs if run.seed in all_of_it]
        shares = [estimate([one / whole for one, whole in pairs]), estimate([(1 + a) / (1 + b) for a, b in pairs])]
        seconds = [[run.seconds.get(part, 0.0) for run in runs] for part in ("rollout", "update")]
        kept_share = estimate([value for run in runs if (value := run.value(kept)) is not None])
        rows.append(
            [
                arm,
                *map(shown, tokens),
                shown(kept_share),
                *(f"{math.fsum(each) / len(each):.0f}" if each else "–" for each in seconds),
                *("" if arm in other_passes else "–" if e.mean is None else f"{e.mean:.0%}" for e in shares),
            ]
        )
    head = ["arm", "sampled, M tokens", "learnt from, M tokens", "responses kept"]
    against = ["update, against masking", "with sampling, against masking"]
    return table([*head, "sampling, s", "update, s", *against], rows)


def _per_sampling(run: Result) -> float:
    """Seconds of updates for each second of sampling."""
    return run.seconds["update"] / run.seconds["rollout"]


def factors_table(done: Done, targets: Sequence[float], metric_name: str) -> str:
    """How much of a metric each arm needed until a held-out accuracy, over the baseline's: paired by seed."""
    found: dict[str, list[str]] = {arm: [arm] for arm in done.study.arms}
    for target in targets:
        until = Until(reaches=target, over=3)
        asked = Quantity(metric=metric_name, steps="all", reduce="sum", until=until, log=True)
        for arm, own, difference in rows(done.study, done.results, asked):
            if arm in found:
                runs = len(seeds_of(done.results, arm, done.study.baseline))
                found[arm].append(of(asked, difference or own, signed=difference is not None, runs=runs))
    return table(["", *(f"to {target:.0%}" for target in targets)], list(found.values()))


def before_table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Greedy accuracy and pass@k of both shipped models, before and after the demo's training, and the change.

    Intervals are over prompts for one model, and over seeds for several; those of changes are paired by prompt.
    """
    rows = []
    for name in ("base", "hasty"):
        after = [scores for key, scores in found.items() if key.startswith(f"{name}, seed")]
        for benchmark in ("held out", "five and six terms") if after else ():
            start, ends = found[name][benchmark], [run[benchmark] for run in after]
            rows.append([f"{name}, {benchmark}, before", *_scores([start])])
            rows.append(["after", *_scores(ends)])
            rows.append(["change", *_changes(start, ends)])
    return table(["", "greedy", *(f"pass@{k}" for k in PASSES), "tokens"], rows)


def _scores(runs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for kind, name in (("greedy", "avg@1"), *(("sampled", f"pass@{k}") for k in PASSES)):
        whole = [run[kind][name] for run in runs]
        mean, low, high = over_seeds([each["value"] for each in whole])
        if len(runs) == 1:
            low, high = whole[0]["low"], whole[0]["high"]
        ends = [min(max(end, 0.0), 1.0) for end in (low, high) if end is not None]
        yield " ".join([f"{mean:.1%}", *([f"({ends[0]:.0%} to {ends[1]:.0%})"] if ends else [])])
    lengths = [run["shares"]["length_mean"] for run in runs]
    yield f"{math.fsum(lengths) / len(lengths):.1f}"


def _changes(before: Mapping[str, Any], after: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """In points: the mean of the runs after less the run before, prompt by prompt."""
    for kind, samples, k in (("greedy", 1, 1), *(("sampled", PASSES[-1], k) for k in PASSES)):
        one, *others = (
            pass_at(np.array(run[kind]["correct"].split(), dtype=int), samples, k) for run in (before, *after)
        )
        ends = paired_interval(one, np.mean(others, axis=0))
        mean, low, high = (f"{round(100 * end, 1) + 0.0:+.1f}" for end in ends)
        yield f"{mean} ({low} to {high})"
    yield ""


def large(done: Done, steps: int = 300) -> str:
    """What the same grid of the paper's runs would take: 7B, 1,024 prompts a step, on GPUs; planned, not measured."""
    plan = chosen("Qwen2.5-7B", "H100", 8, PAPER)[1].plan
    hours = plan.seconds * steps / 3600
    return (
        f"`sieverl plan` puts a step of the paper's recipe with a 7B model at {plan.seconds:.0f} s on 8 H100: "
        f"{hours:.0f} hours\nfor a run of {steps} steps, and {hours * done.study.size * 8:,.0f} GPU-hours for "
        f"{len(done.study.arms)} arms with {len(done.study.seeds)} seeds. Planned, not measured."
    )


# --- the page ---------------------------------------------------------------------------------------


def studies() -> list[Done]:
    """Both tasks."""
    return [Done.of("base", "minimalist"), Done.of("hasty", "minimalist", "hasty")]


def rates() -> list[Done]:
    """The sweeps of the learning rate, one for each task."""
    return [Done.of("base", "minimalist-rates"), Done.of("hasty", "minimalist-rates", "hasty-rates")]


def others() -> list[Done]:
    """Studies of their own."""
    return [Done.of(name, name) for name in ("clipping", "success", "sieve")]


def everything() -> list[Done]:
    """All that the page rests on."""
    return [*studies(), *rates(), *others()]


def parts() -> dict[str, str]:
    """Every part of the page, by the name of its place."""
    both = studies()
    found = {"verdicts": verdicts_table(both)}
    for done in both:
        found |= {
            f"size {done.name}": size_of(done),
            f"table {done.name}": "\n".join(arm_table(done.study, done.results)),
            f"claims {done.name}": claims_of(done),
            f"compute {done.name}": compute_table(done, masking="reinforce", other_passes=OTHER_PASSES),
        }
    found |= {f"rates {done.name}": rates_table(done) for done in rates()}
    for done in others():
        found |= {
            f"size {done.name}": size_of(done),
            f"table {done.name}": "\n".join(arm_table(done.study, done.results)),
            f"claims {done.name}": claims_of(done),
        }
    sieve = others()[-1]
    found["tokens sieve"] = factors_table(sieve, TARGETS, "rollout/tokens")
    found["seconds sieve"] = factors_table(sieve, TARGETS, "time/step")
    found["large"] = large(both[0])
    if (file := RESULTS / "before-and-after.json").exists():
        found["before"] = before_table(json.loads(file.read_text()))
    return found


def main() -> None:
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), parts()), encoding="utf-8")
    for done in studies():
        for name, svg in figures(done):
            PAGE.with_name(name).write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main()
