"""The figures of docs/study.md, and the results that they and its tables are made from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sieverl.display.charts import Series, line_chart
from sieverl.display.svg import standalone
from sieverl.evaluation.statistics import over_seeds
from sieverl.study.plan import Study, read_study
from sieverl.study.results import Result, load_results

STUDIES = Path(__file__).parents[1] / "studies"
RESULTS = STUDIES / "results"
Curve = Callable[[Result], tuple[Sequence[float], Sequence[float]]]  # a run -> x, y
MAIN = ("raft", "raft_pp", "grpo", "reinforce", "reinforce_rej", "ppo", "iterative_dpo")
ABLATION = ("reinforce", "drop_all_wrong", "drop_all_correct", "reinforce_rej", "drop_both_std", "mean_zero", "grpo")
CLIPPING = ("raft", "raft_pp", "raft_pp_no_clip", "raft_pp_clip_higher", "grpo", "rej_zero_negatives")


@dataclass(frozen=True)
class Done:
    """A study and its results so far. `name` is that of its parts on the page and of its figures."""

    name: str
    study: Study
    results: Sequence[Result]
    folder: Path

    @staticmethod
    def of(name: str, *files: str) -> Done:
        """The study in these files, with the results that are kept of the last one."""
        study = read_study(*(STUDIES / f"{file}.toml" for file in files))
        folder = RESULTS / files[-1]
        return Done(name, study, load_results(folder / "results.jsonl"), folder)

    def runs(self, arm: str) -> list[Result]:
        """The runs of an arm."""
        return [result for result in self.results if result.arm == arm]


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


def trained(run: Result) -> tuple[Sequence[float], Sequence[float]]:
    """The held-out accuracy at each evaluation after the start, from which all climb alike."""
    steps, values = metric("")(run)
    return steps[1:], values[1:]


def path(runs: Sequence[Result], along: Callable[[Result, float], float], label: str, tone: int) -> Series:
    """Held-out accuracy, mean over seeds, against another number at the same steps, mean over seeds.

    Only of steps after the start that all of the runs have.
    """
    curves = [dict(zip(*trained(run), strict=True)) for run in runs]
    steps = sorted(set.intersection(*map(set, curves))) if curves else []
    points = [
        (math.fsum(along(run, step) for run in runs) / len(runs), over_seeds([curve[step] for curve in curves]))
        for step in steps
    ]
    xs, ys = [x for x, _ in points], [y for _, y in points]
    return Series(label, xs, [y[0] for y in ys], [y[1] for y in ys], [y[2] for y in ys], style="path", tone=tone)


def kl_ref(run: Result) -> tuple[Sequence[float], Sequence[float]]:
    """KL to the start model at each evaluation."""
    return run.metrics[run.heldout.rpartition("/")[0] + "/kl_ref"]


def drift(run: Result, step: float) -> float:
    """KL to the start model at an evaluation."""
    return dict(zip(*kl_ref(run), strict=True))[step]


def learnt(run: Result, step: float) -> float:
    """Thousands of tokens that were learnt from up to a step."""
    steps, values = run.metrics["train/tokens"]
    return math.fsum(value for at, value in zip(steps, values, strict=True) if at <= step) / 1e3


def figures(done: Done) -> Iterator[tuple[str, str]]:
    """The name of each figure and its SVG."""

    def chart(name: str, arms: Sequence[str], curve: Curve, title: str, unit: str, **how: Any) -> tuple[str, str]:
        series = [band(done.runs(arm), curve, arm, tone) for tone, arm in enumerate(arms) if done.runs(arm)]
        return f"study-{done.name}-{name}.svg", standalone(line_chart(title, series, "step", unit, **how))

    def against(
        name: str, arms: Sequence[str], along: Callable[[Result, float], float], x: str, unit: str
    ) -> tuple[str, str]:
        series = [path(done.runs(arm), along, arm, tone) for tone, arm in enumerate(arms) if done.runs(arm)]
        title = f"Held-out accuracy against {x}"
        svg = line_chart(title, series, f"{x}, {unit}", "avg@8", percent=True, whole=False)
        return f"study-{done.name}-{name}.svg", standalone(svg)

    reward, entropy = (metric(name, keep=0.85) for name in ("reward/accuracy", "policy/entropy"))
    yield chart("accuracy", MAIN, trained, "Held-out accuracy, from step 25 on", "avg@8", percent=True)
    yield chart("reward", MAIN, reward, "Accuracy in training, running mean", "share of responses", percent=True)
    yield chart("entropy", CLIPPING, entropy, "Entropy of sampled tokens, running mean", "nats a token")
    yield chart("ablation", ABLATION, trained, "Held-out accuracy, by what is left out", "avg@8", percent=True)
    yield chart("drift", ABLATION, kl_ref, "KL to the start model", "nats a token")
    yield against("kl", ABLATION, drift, "KL to the start model", "nats a token")
    yield against("tokens", MAIN, learnt, "tokens learnt from", "thousands")
