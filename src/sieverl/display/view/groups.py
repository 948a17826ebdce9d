"""The groups of a step: what each is worth at a glance, and which of them to show.

Legend: R responses of the step, G its groups.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sieverl.types import BoolArray, Row, Status

if TYPE_CHECKING:
    import pyarrow

COLUMNS = ("group", "sample", "prompt_id", "prompt", "answer", "response", "reward", "correct", "status", "length",
           "truncated", "kept", "reason")  # fmt: skip


@dataclass(frozen=True)
class Group:
    """One prompt of a step: its responses in short, in the order of their samples."""

    number: int
    prompt_id: int
    prompt: str
    answer: str
    rewards: Sequence[float]
    correct: Sequence[bool]
    statuses: Sequence[str]
    lengths: Sequence[int]
    kept: int | None
    reasons: Mapping[str, int]

    @property
    def right(self) -> int:
        """How many responses are correct."""
        return sum(self.correct)

    @property
    def solved(self) -> float:
        """The share of its responses that are correct."""
        return self.right / len(self.correct)


@dataclass(frozen=True)
class Filter:
    """Which groups to show: all of the conditions that are set must hold. `text` is looked for in the responses."""

    show: str = "all"
    text: str = ""
    shortest: int | None = None
    longest: int | None = None


def _share(low: float, high: float) -> Callable[[pyarrow.Table], BoolArray]:
    """Responses of groups whose share of correct ones is from `low` to `high`."""

    def choose(table: pyarrow.Table) -> BoolArray:
        group_R, correct_R = _numpy(table, "group"), _numpy(table, "correct").astype(bool)
        _, index_R = np.unique(group_R, return_inverse=True)
        share_R = (np.bincount(index_R, correct_R) / np.bincount(index_R))[index_R]
        found: BoolArray = (share_R >= low) & (share_R <= high)
        return found

    return choose


def _status(*names: str) -> Callable[[pyarrow.Table], BoolArray]:
    return lambda table: np.isin(np.array(table["status"].to_pylist(), dtype=object), names)


SHOW: dict[str, tuple[str, Callable[[pyarrow.Table], BoolArray]]] = {  # name -> (label, which responses)
    "all": ("all groups", _share(0.0, 1.0)),
    "mixed": ("mixed", _share(1e-9, 1 - 1e-9)),
    "all_wrong": ("all wrong", _share(0.0, 0.0)),
    "all_correct": ("all right", _share(1.0, 1.0)),
    "kept": ("with kept responses", lambda table: np.array([bool(x) for x in table["kept"].to_pylist()], dtype=bool)),
    "truncated": ("with truncated ones", _status(Status.TRUNCATED)),
    "no_answer": ("without an answer", _status(Status.NO_ANSWER)),
    "timeout": ("with verifier timeouts", _status(Status.VERIFIER_TIMEOUT)),
    "error": ("with verifier errors", _status(Status.VERIFIER_ERROR)),
}


def _numpy(table: pyarrow.Table, name: str) -> np.ndarray:
    values: np.ndarray = table[name].to_numpy()
    return values


def matching(table: pyarrow.Table, wanted: Filter) -> BoolArray:
    """Which responses a filter means, bool [R]; a group is shown if it has one of them."""
    import pyarrow.compute as pc

    found_R = SHOW.get(wanted.show, SHOW["all"])[1](table)
    if wanted.text:
        hit = pc.match_substring(table["response"], wanted.text, ignore_case=True)
        found_R = found_R & hit.fill_null(False).to_numpy().astype(bool)
    length_R = _numpy(table, "length")
    if wanted.shortest is not None:
        found_R = found_R & (length_R >= wanted.shortest)
    if wanted.longest is not None:
        found_R = found_R & (length_R <= wanted.longest)
    return found_R


def numbers(table: pyarrow.Table, wanted: Filter) -> list[int]:
    """The numbers of the groups that a filter shows, ascending."""
    return sorted(set(_numpy(table, "group")[matching(table, wanted)].tolist()))


def groups(table: pyarrow.Table, chosen: Sequence[int]) -> list[Group]:
    """The groups of these numbers, in their order."""
    import pyarrow as pa
    import pyarrow.compute as pc

    some = table.filter(pc.is_in(table["group"], pa.array(chosen, pa.int64())))
    rows: dict[int, list[Row]] = {}
    for row in some.drop_columns(["response"]).to_pylist():
        rows.setdefault(row["group"], []).append(row)
    return [_group(number, rows[number]) for number in chosen if number in rows]


def _group(number: int, rows: list[Row]) -> Group:
    def column(name: str) -> list[Any]:
        return [row[name] for row in rows]

    kept = column("kept")
    return Group(
        number,
        int(str(rows[0]["prompt_id"])),
        str(rows[0]["prompt"]),
        str(rows[0]["answer"]),
        column("reward"),
        column("correct"),
        column("status"),
        column("length"),
        None if all(one is None for one in kept) else sum(map(bool, kept)),
        Counter(str(reason) for reason in column("reason") if reason),
    )


def overview(table: pyarrow.Table) -> dict[str, int]:
    """How many groups each choice of `SHOW` has."""
    group_R = _numpy(table, "group")
    return {name: len(set(group_R[choose(table)].tolist())) for name, (_, choose) in SHOW.items()}
