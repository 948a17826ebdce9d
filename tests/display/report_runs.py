"""Run directories written by hand, without any training, and a reader of the pages made from them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from sieverl.run_dir.rollouts import Kind, RolloutRow, write_rollouts
from sieverl.types import Metrics

# what a model, a data set or a recipe may have written
HOSTILE = [
    "<script>alert(1)</script>",
    "</style></title></pre><script src=//evil.example/x.js></script>",
    "\"><img src=x onerror=alert(1)>' onmouseover='alert(1)",
    "<a href=javascript:alert(1)>x</a><iframe srcdoc='<script>1</script>'>",
    "{{ 7 * 7 }} {% raw %} ${x} <!-- ]]> -->",
    "\u202eabc\u2066\u200b\x1b]0;title\x07\x00\ud800\ufffe\U000e0041",
    "<svg onload=alert(1)><use href='https://evil.example/#x'/>",
    "x" * 1_000_000,
]


class Page(HTMLParser):
    """The elements, attributes and text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data

    @property
    def faults(self) -> list[object]:
        """What a page must not have: elements that run or load something, attributes that do, addresses."""
        loading = {
            "script",
            "iframe",
            "object",
            "embed",
            "link",
            "base",
            "img",
            "a",
            "form",
            "use",
            "image",
            "foreignobject",
        }
        found: list[object] = [tag for tag in self.elements if tag in loading]
        for tag, name, value in self.attributes:
            if name.startswith("on") or name in ("style", "src", "href", "srcdoc", "xlink:href") or "//" in value:
                found.append((tag, name, value))
        return found


def row(step: int, group: int, sample: int, correct: bool, **changes: Any) -> RolloutRow:
    """A response; kept unless it says otherwise."""
    values: dict[str, Any] = {
        "step": step, "group": group, "sample": sample, "prompt_id": group, "prompt": f"{group}+1",
        "answer": str(group + 1), "response": f"response {group}/{sample}", "reward": float(correct),
        "correct": correct, "status": "correct" if correct else "incorrect", "length": 10, "truncated": False,
        "extracted": "7", "kept": True, "advantage": 1.0, "logp": -1.0,
    }  # fmt: skip
    return RolloutRow(**{**values, **changes})


def rows_of(step: int, correct: Sequence[Sequence[int]], kind: Kind = "step", **changes: Any) -> list[RolloutRow]:
    """Groups of responses, right (1) and wrong (0); of a step, those are kept that are mixed."""
    out = []
    for group, some in enumerate(correct):
        mixed = 0 < sum(some) < len(some)
        judged = {"kept": mixed, "reason": None if mixed else "all_wrong"} if kind == "step" else {"kept": None}
        out += [row(step, group, i, bool(one), **{**judged, **changes}) for i, one in enumerate(some)]
    return out


def metrics(step: int, accuracy: float, **more: float | None) -> Metrics:
    """A row of metrics."""
    return {
        "step": step, "reward/mean": accuracy, "reward/accuracy": accuracy, "select/kept_fraction": 0.5,
        "select/all_wrong": 0.25, "select/all_correct": 0.25, "policy/entropy": 0.2, "policy/kl_old": 0.01,
        "rollout/length_mean": 10.0, "rollout/responses": 16.0, "rollout/truncated": 0.0, "verify/no_answer": 0.0,
        "verify/timeouts": 1.0, "verify/errors": 0.0, "time/rollout": 3.0, "time/update": 1.0, "time/step": 4.5, **more,
    }  # fmt: skip


def evaluated(accuracy: float, kl: float = 0.0) -> Metrics:
    """The held-out metrics of a row."""
    ci = {"eval_ci/heldout/avg@4/low": accuracy - 0.125, "eval_ci/heldout/avg@4/high": accuracy + 0.125}
    return {"eval/heldout/avg@4": accuracy, **ci, "eval/heldout/kl_ref": kl, "eval/heldout/length_mean": 9.0}


def write_run(
    folder: Path,
    rows: Sequence[Metrics],
    recipe: Mapping[str, Any] | None = None,
    responses: Sequence[Sequence[RolloutRow]] = (),
    evaluations: Sequence[Sequence[RolloutRow]] = (),
) -> Path:
    """A run directory of these rows; the top level of the recipe is written as it is."""
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    given = {"algorithm": "grpo", "steps": 2, "seed": 1, "run_dir": str(folder), **(recipe or {})}
    (folder / "recipe.toml").write_text("".join(f"{json.dumps(k)} = {json.dumps(v)}\n" for k, v in given.items()))
    start = {"step": 0, "device": "cpu", "parameters": 1000, "versions": {"torch": "2.13"}, "data": {"train": "ab12"}}
    (folder / "environment.json").write_text(json.dumps({"starts": [start]}))
    for some in responses:
        write_rollouts(folder, some[0].step, some)
    for some in evaluations:
        write_rollouts(folder, some[0].step, some, "eval")
    return folder


def whole_run(folder: Path, **recipe: Any) -> Path:
    """A run of two steps with everything in it: evaluations before and after, a group of every kind."""
    rows = [{"step": 0, **evaluated(0.25)}, metrics(1, 0.25), {**metrics(2, 0.75), **evaluated(0.5, kl=0.125)}]
    steps = [rows_of(step, [[0, 0, 0, 0], [0, 1, 0, 1], [1, 1, 1, 1], [0, 0, 0, 1]]) for step in (1, 2)]
    evals = [rows_of(0, [[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]], "eval")]
    evals.append(rows_of(2, [[0, 0, 1, 1], [1, 1, 1, 1], [0, 0, 0, 0]], "eval"))
    return write_run(folder, rows, recipe, steps, evals)
