"""Responses to look at: groups of the last step, and held-out prompts that improved or were never solved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from sieverl.display.axes import shown
from sieverl.display.report.content import Examples, Group, Response, cut
from sieverl.display.report.responses import Counts, numbers, texts
from sieverl.run_dir.rollouts import Kind
from sieverl.run_dir.saved import SavedRun
from sieverl.types import BoolArray

MOST = 16  # responses of a group
PROMPTS = 8  # of the held-out ones, of each kind
SHOWN = [
    "step",
    "group",
    "sample",
    "prompt_id",
    "prompt",
    "answer",
    "response",
    "reward",
    "correct",
    "status",
    "length",
]
JUDGED = ["extracted", "kept", "reason", "advantage"]
FACTS = {"status": "status", "reward": "reward", "extracted": "read", "advantage": "advantage", "length": "tokens"}
READ = {"step": "step", "status": "status", "extracted": "read", "length": "tokens"}  # of held-out prompts
ABOUT_GROUPS = (
    "What the model wrote, what the verifier read, and whether the learner saw it. Good: the groups that are kept hold "
    "right and wrong answers, and the wrong ones are wrong for a reason you can see."
)
ABOUT_IMPROVED = (
    "Correct responses at the first and the last evaluation. Good: the reasoning changed, not only the answer."
)
ABOUT_UNSOLVED = (
    "{} of {} prompts have no correct response in any of the {} evaluations that were read. Good: they are hard; where "
    "the gold answer looks wrong, the fault is in the data."
)
WANTED: dict[str, Callable[[BoolArray, BoolArray], bool]] = {
    "Kept": lambda correct, kept: bool(kept.any() and correct.any() and not correct.all()),
    "All wrong": lambda correct, kept: not correct.any(),
    "All correct": lambda correct, kept: bool(correct.all()),
}


def groups(run: SavedRun) -> list[Examples]:
    """One group of each kind from the last step that can be read; none without one."""
    for step in reversed(run.logged["step"][-5:]):
        found = numbers(run, step, ("group", "correct", "kept"))
        if found is not None and len(found["group"]):
            chosen = first_of_each(found)
            rows = texts(run, step, [*SHOWN, *JUDGED], [("group", "in", sorted(set(chosen.values())))])
            by_kind = {kind: [row for row in rows if row["group"] == number] for kind, number in chosen.items()}
            made = [group(f"{kind}: group {chosen[kind]}", some, _facts) for kind, some in by_kind.items() if some]
            lacking = ", ".join(kind.lower() for kind in WANTED if kind not in chosen)
            about = ABOUT_GROUPS + (f" This step has no group of the kind: {lacking}." if lacking else "")
            made[:1] = [replace(one, open=True) for one in made[:1]]
            return [Examples(f"Groups of step {step}", about, made)] if made else []
    return []


def first_of_each(columns: Mapping[str, Any]) -> dict[str, int]:
    """The number of the first group of each kind.

    >>> import numpy as np
    >>> group, kept = np.array([0, 0, 1, 1]), np.array([0, 0, 1, 1])
    >>> first_of_each({"group": group, "correct": np.array([0, 0, 0, 1]), "kept": kept})
    {'Kept': 1, 'All wrong': 0}
    """
    group_R, out = columns["group"], {}
    for number in np.unique(group_R):
        mine_R = group_R == number
        for kind, fits in WANTED.items():
            if kind not in out and fits(columns["correct"][mine_R] == 1, columns["kept"][mine_R] == 1):
                out[kind] = int(number)
        if len(out) == len(WANTED):
            break
    return {kind: out[kind] for kind in WANTED if kind in out}


def group(title: str, rows: Sequence[Mapping[str, Any]], facts: Callable[[Mapping[str, Any]], Any]) -> Group:
    """A prompt with the first of its responses."""
    first = rows[0]
    left = f"{len(rows) - MOST} more responses are not shown." if len(rows) > MOST else ""
    responses = [Response(cut(row["response"]), row["correct"] is True, facts(row)) for row in rows[:MOST]]
    return Group(title, cut(first["prompt"]), cut(first["answer"], 300), responses, left)


def _facts(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    said = "kept" if row["kept"] is True else f"not kept: {cut(row['reason'] or 'no reason is logged', 60)}"
    found = [
        (name, text(row[column])) for column, name in FACTS.items() if column != "step" and row[column] is not None
    ]
    return [*found, ("learner", said)]


def text(value: object) -> str:
    """A cell as it is shown."""
    return shown(float(value)) if isinstance(value, int | float) and not isinstance(value, bool) else cut(value, 200)


# --- held-out prompts -------------------------------------------------------------------------------


def prompts(run: SavedRun, found: Sequence[Counts]) -> list[Examples]:
    """The held-out prompts that improved most, and those that no evaluation ever solved."""
    if not found:
        return []
    first, last = found[0], found[-1]
    gain = {i: last.correct[i] - first.correct[i] for i in last.correct if i in first.correct}
    improved = sorted((i for i in gain if gain[i] > 0), key=lambda i: (-gain[i], i))[:PROMPTS]
    unsolved = [i for i in last.correct if not any(one.correct.get(i) for one in found)]
    out = []
    if improved:
        out.append(Examples("Most improved held-out prompts", ABOUT_IMPROVED, _changed(run, improved, first, last)))
    if unsolved:
        about = ABOUT_UNSOLVED.format(len(unsolved), len(last.correct), len(found))
        out.append(Examples("Never solved held-out prompts", about, _never(run, unsolved[:PROMPTS], last)))
    return out


def _of(run: SavedRun, step: int, ids: Sequence[int]) -> dict[int, list[dict[str, Any]]]:
    """The rows of some prompts of an evaluation."""
    kind: Kind = "eval"
    rows = texts(run, step, [*SHOWN, *JUDGED], [("prompt_id", "in", list(ids))], kind)
    return {i: [row for row in rows if row["prompt_id"] == i] for i in ids}


def _changed(run: SavedRun, ids: Sequence[int], first: Counts, last: Counts) -> list[Group]:
    """A wrong response before and a right one after, of each prompt."""
    before, after = _of(run, first.step, ids), _of(run, last.step, ids)
    out = []
    for i in ids:
        rows = [*_first(before[i], False), *_first(after[i], True)]
        if rows:
            counts = (
                f"{first.correct[i]} of {first.samples[i]} correct before, {last.correct[i]} of {last.samples[i]} after"
            )
            out.append(group(f"{_start(rows[0])}: {counts}", rows, _read))
    return out


def _never(run: SavedRun, ids: Sequence[int], last: Counts) -> list[Group]:
    """The first response to each prompt, and the answers that were read most often."""
    out = []
    for rows in _of(run, last.step, ids).values():
        if rows:
            common = Counter(cut(row["extracted"], 60) for row in rows if row["extracted"] is not None).most_common(3)
            read = ", ".join(f"{answer} ({count})" for answer, count in common) or "none"
            out.append(group(f"{_start(rows[0])}: answers read: {read}", rows[:1], _read))
    return out


def _start(row: Mapping[str, Any]) -> str:
    """The beginning of a prompt, on one line."""
    prompt = " ".join(str(row["prompt"])[:200].split())
    return prompt if len(prompt) <= 60 else f"{prompt[:60]}..."


def _first(rows: Iterable[dict[str, Any]], correct: bool) -> list[dict[str, Any]]:
    return [row for row in rows if row["correct"] is correct][:1]


def _read(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(name, text(row[column])) for column, name in READ.items() if row[column] is not None]
