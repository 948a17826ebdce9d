"""The tables and figures of docs/study.md, from the results in studies/results: `python tools/write_study.py`."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pages import filled

from sieverl.display.charts import Series, line_chart
from sieverl.display.svg import standalone
from sieverl.evaluation.statistics import over_seeds
from sieverl.study.compare import estimate
from sieverl.study.plan import Quantity, Study, read_study
from sieverl.study.results import Result, load_results
from sieverl.study.table import arm_table, claim_lines, comparison_cells, judged, shown

ROOT = Path(__file__).parents[1]
DOCS, STUDIES, RESULTS = ROOT / "docs", ROOT / "studies", ROOT / "studies" / "results"
PAGE = DOCS / "study.md"
Curve = Callable[[Result], tuple[Sequence[float], Sequence[float]]]  # a run -> x, y


@dataclass(frozen=True)
class Done:
    """A study and its results so far. `name` is that of its parts on the page and of its figures."""

    name: str
    study: Study
    results: Sequence[Result]

    @staticmethod
    def of(name: str, *files: str) -> Done:
        """The study in these files, with the results that are kept of the last one."""
        study = read_study(*(STUDIES / f"{file}.toml" for file in files))
        return Done(name, study, load_results(RESULTS / files[-1] / "results.jsonl"))

    def runs(self, arm: str) -> list[Result]:
        """The runs of an arm."""
        return [result for result in self.results if result.arm == arm]

    @property
    def cells(self) -> int:
        """How many runs it is to have."""
        return len(self.study.arms) * len(self.study.seeds)


# --- tables -----------------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["-"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" if i != 1 else f"|{'|'.join(line)}|" for i, line in enumerate(lines))


def size_of(done: Done) -> str:
    """How much was run, by which versions, and how long it took."""
    if not done.results:
        return f"0 of {done.cells} runs so far."
    hours = math.fsum(sum(run.seconds.get(part, 0.0) for part in ("step", "evaluate")) for run in done.results) / 3600
    versions = {f"{name} {number}" for run in done.results for name, number in run.versions.items() if number}
    wanted = sorted(text for text in versions if text.split()[0] in ("sieverl", "torch", "transformers"))
    return f"{len(done.results)} of {done.cells} runs so far, {hours:.1f} core-hours; {', '.join(wanted)}."


def rates_table(rates: Done) -> str:
    """Held-out accuracy after the sweep: a row for each algorithm, a column for each learning rate."""
    found: dict[str, dict[str, list[float]]] = {}
    for run in rates.results:
        arm, _, rate = run.arm.partition("-")
        value = run.value(Quantity())
        if value is not None:
            found.setdefault(arm, {}).setdefault(rate, []).append(value)
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
    return "\n\n".join("\n".join(claim_lines(one, done.study.baseline)) for one in judged(done.study, done.results))


def compute_table(done: Done, masking: str) -> str:
    """What each arm paid: tokens, seconds, and those of its updates beside those of an arm that keeps everything."""
    sampled = Quantity(metric="rollout/tokens", steps="all", reduce="sum")
    learnt = Quantity(metric="train/tokens", steps="all", reduce="sum")
    kept = Quantity(metric="select/kept_fraction", steps="all")
    all_of_it = {run.seed: run.seconds.get("update", 0.0) for run in done.runs(masking)}
    rows = []
    for arm in done.study.arms:
        runs = done.runs(arm)
        tokens = [estimate([v / 1e6 for run in runs if (v := run.value(q)) is not None]) for q in (sampled, learnt)]
        ratios = [run.seconds["update"] / all_of_it[run.seed] for run in runs if all_of_it.get(run.seed)]
        seconds = [[run.seconds.get(part, 0.0) for run in runs] for part in ("rollout", "update")]
        share = estimate([value for run in runs if (value := run.value(kept)) is not None])
        rows.append(
            [
                arm,
                *map(shown, tokens),
                shown(share),
                *(f"{math.fsum(each) / len(each):.0f}" if each else "–" for each in seconds),
                f"{100 * math.fsum(ratios) / len(ratios):.0f}%" if ratios else "–",
            ]
        )
    head = ["arm", "sampled, M tokens", "learnt from, M tokens", "responses kept"]
    return table([*head, "sampling, s", "update, s", "update, against masking"], rows)


def pass_table(done: Done) -> str:
    """pass@k before and after, and how it moved."""
    names = sorted({m for run in done.results for m in run.metrics if "/pass@" in m or "/avg@" in m}, key=_k)
    if not names:
        return "No results yet."
    rows = []
    first = {run.seed: run for run in done.results}
    starts = [over_seeds([run.metrics[name][1][0] for run in first.values()])[0] for name in names]
    rows.append(["before training", *(f"{start:.3f}" for start in starts if start is not None)])
    for arm in done.study.arms:
        values = [
            estimate([v for run in done.runs(arm) if (v := run.value(Quantity(metric=n))) is not None]) for n in names
        ]
        rows.append([arm, *map(shown, values)])
    return table(["", *(name.split("/")[-1].replace("avg@8", "pass@1") for name in names)], rows)


def _k(metric: str) -> tuple[int, int]:
    kind, _, k = metric.split("/")[-1].partition("@")
    return (0, 1) if kind == "avg" else (1, int(k))


def before_table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Greedy accuracy and pass@k of both shipped models, before and after the demo's training."""
    rows = []
    for name in ("base", "hasty"):
        after = [scores for key, scores in found.items() if key.startswith(f"{name}, seed")]
        for benchmark in ("held out", "five and six terms"):
            for when, runs in (("before", [found[name]]), ("after", after)):
                if runs:
                    rows.append([f"{name}, {benchmark}, {when}", *_scores([run[benchmark] for run in runs])])
    return table(["", "greedy", "pass@1", "pass@2", "pass@4", "pass@8", "pass@16", "tokens"], rows)


def _scores(runs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for kind, name in (
        ("greedy", "avg@1"),
        *(("sampled", n) for n in ("avg@16", "pass@2", "pass@4", "pass@8", "pass@16")),
    ):
        values = [run[kind][name]["value"] for run in runs]
        yield f"{100 * math.fsum(values) / len(values):.1f}%"
    lengths = [run["shares"]["mean_length"] for run in runs]
    yield f"{math.fsum(lengths) / len(lengths):.1f}"


# --- figures ----------------------------------------------------------------------------------------


def band(runs: Sequence[Result], curve: Curve, label: str, tone: int) -> Series:
    """The mean over seeds and its 95% interval at each x that all of them have."""
    found = [dict(zip(*curve(run), strict=True)) for run in runs]
    places = sorted(set.intersection(*map(set, found))) if found else []
    whole = [over_seeds([points[x] for points in found]) for x in places]
    mean, low, high = zip(*whole, strict=True) if whole else ((), (), ())
    return Series(label, places, mean, low, high, tone=tone)


def metric(name: str, keep: float = 0.0) -> Curve:
    """A metric by step (empty: the held-out accuracy), as a running mean that keeps so much of the old value."""

    def of(run: Result) -> tuple[Sequence[float], Sequence[float]]:
        steps, values = run.metrics.get(name or run.heldout, ([], []))
        out: list[float] = []
        for value in values:
            out.append(value if not out else keep * out[-1] + (1 - keep) * value)
        return steps, out

    return of


def path(runs: Sequence[Result], along: Callable[[Result, int], float], label: str, tone: int) -> Series:
    """Held-out accuracy, mean over seeds, against another number at the same steps, mean over seeds."""
    steps = runs[0].metrics[runs[0].heldout][0] if runs else []
    both = [
        [(along(run, step), dict(zip(*run.metrics[run.heldout], strict=True)).get(step)) for run in runs]
        for step in steps
    ]
    points = [
        (math.fsum(x for x, _ in each) / len(each), over_seeds([y for _, y in each if y is not None])) for each in both
    ]
    xs, ys = [x for x, _ in points], [y for _, y in points]
    return Series(label, xs, [y[0] for y in ys], [y[1] for y in ys], [y[2] for y in ys], style="path", tone=tone)


def drift(run: Result, step: int) -> float:
    """KL to the start model at an evaluation."""
    name = run.heldout.rpartition("/")[0] + "/kl_ref"
    return dict(zip(*run.metrics[name], strict=True)).get(step, 0.0)


def learnt(run: Result, step: int) -> float:
    """Thousands of tokens that were learnt from up to a step."""
    steps, values = run.metrics["train/tokens"]
    return math.fsum(value for at, value in zip(steps, values, strict=True) if at <= step) / 1e3


MAIN = ("raft", "raft_pp", "grpo", "reinforce", "reinforce_rej", "ppo", "iterative_dpo")
ABLATION = ("reinforce", "drop_all_wrong", "drop_all_correct", "reinforce_rej", "drop_both_std", "mean_zero", "grpo")
CLIPPING = ("raft", "raft_pp", "raft_pp_no_clip", "raft_pp_clip_higher", "grpo", "rej_zero_negatives")


def figures(done: Done) -> Iterator[tuple[str, str]]:
    """The name of each figure and its SVG."""

    def chart(name: str, arms: Sequence[str], curve: Curve, title: str, unit: str, **how: Any) -> tuple[str, str]:
        series = [band(done.runs(arm), curve, arm, tone) for tone, arm in enumerate(arms) if done.runs(arm)]
        return f"study-{done.name}-{name}.svg", standalone(line_chart(title, series, "step", unit, **how))

    def against(name: str, arms: Sequence[str], along: Callable[[Result, int], float], x: str) -> tuple[str, str]:
        series = [path(done.runs(arm), along, arm, tone) for tone, arm in enumerate(arms) if done.runs(arm)]
        title = f"Held-out accuracy against {x}"
        svg = line_chart(title, series, x, "avg@8", percent=True, whole=False)
        return f"study-{done.name}-{name}.svg", standalone(svg)

    entropy = metric("policy/entropy", keep=0.85)
    yield chart("accuracy", MAIN, metric(""), "Held-out accuracy, 95% over seeds", "avg@8", percent=True)
    yield chart("entropy", CLIPPING, entropy, "Entropy of sampled tokens, running mean", "nats a token")
    yield chart("ablation", ABLATION, metric(""), "Which prompts are left out", "avg@8", percent=True)
    yield against("kl", ABLATION, drift, "KL to the start model, nats a token")
    yield against("tokens", MAIN, learnt, "thousands of tokens learnt from")


# --- the page ---------------------------------------------------------------------------------------


def studies() -> list[Done]:
    """Both tasks."""
    return [Done.of("base", "minimalist"), Done.of("hasty", "minimalist", "hasty")]


def parts() -> dict[str, str]:
    """Every part of the page, by the name of its place."""
    both = studies()
    found = {"verdicts": verdicts_table(both)}
    for done in both:
        found |= {
            f"size {done.name}": size_of(done),
            f"table {done.name}": "\n".join(arm_table(done.study, done.results)),
            f"claims {done.name}": claims_of(done),
            f"compute {done.name}": compute_table(done, masking="reinforce"),
            f"pass {done.name}": pass_table(done),
        }
    rates = (Done.of("base", "minimalist-rates"), Done.of("hasty", "minimalist-rates", "hasty-rates"))
    found |= {f"rates {done.name}": rates_table(done) for done in rates if done.results}
    if (file := RESULTS / "before-and-after.json").exists():
        found["before"] = before_table(json.loads(file.read_text()))
    return found


def main() -> None:
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), parts()), encoding="utf-8")
    for done in studies():
        for name, svg in figures(done):
            (DOCS / name).write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main()
