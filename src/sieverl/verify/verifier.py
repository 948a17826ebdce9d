"""The verifier protocol: a function from (response, row) to a verdict, and what the worker pool needs to know of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sieverl.errors import Alarm, DataError, UsageError, nearest
from sieverl.types import Row, Status, Verdict

Spec = Mapping[str, object]  # the `name` of a verifier and its options: a recipe's [verify] table
NO_ANSWER = Verdict(0.0, False, Status.NO_ANSWER)
NOT_APPLICABLE = Verdict(0.0, False, Status.NO_ANSWER)  # compared by identity: the user's function returned None
REFUSED = Verdict(0.0, False, Status.VERIFIER_ERROR)


class TooBig(Exception):
    """An answer that is refused because parsing or evaluating it would take too long."""


def binary(correct: bool) -> Verdict:
    """The verdict with reward 1 (correct) or 0 (incorrect).

    >>> binary(True).reward, binary(False).status.value
    (1.0, 'incorrect')
    """
    return Verdict.of(float(correct))


def undecided(response: str, row: Row) -> Verdict | None:
    """The cheap path of a verifier that has none: always None."""
    return None


@dataclass(frozen=True)
class Verifier:
    """A callable `(response, row) -> Verdict`, and what the worker pool needs to know of it.

    `full` gives the verdict. `cheap` gives the same verdict in microseconds in the caller's process, or None where it
    cannot decide; with `total` it always decides, so no worker process is needed. `prepare` does the slow imports.
    `graded`: rewards are more than correct (1) and incorrect (0); None means that only the user's function can tell,
    by what `declares` returns once it is loaded (None again if it does not say). `gold` writes a response that must be
    correct for a row, or None if there is none.
    """

    full: Callable[[str, Row], Verdict]
    cheap: Callable[[str, Row], Verdict | None] = undecided
    total: bool = False
    prepare: Callable[[], object] = lambda: None
    graded: bool | None = False
    declares: Callable[[], bool | None] = lambda: None
    gold: Callable[[Row], str | None] = lambda row: None

    def __call__(self, response: str, row: Row) -> Verdict:
        return self.full(response, row)


def as_verdict(value: Any, correct_from: float = 1.0) -> Verdict:
    """Convert what a user's function returned: a number, a Verdict, or None, which means "does not apply".

    Raises ValueError for a reward that is infinite or not a number, TypeError for what is no number at all.

    >>> as_verdict(1).correct, as_verdict(None).status.value
    (True, 'no_answer')
    >>> as_verdict(float("nan"))
    Traceback (most recent call last):
    ValueError: the reward is nan; it must be a finite number
    """
    if value is None:
        return NOT_APPLICABLE
    verdict = value if isinstance(value, Verdict) else Verdict.of(float(value), correct_from=correct_from)
    parts = {str(name): None if part is None else finite(part) for name, part in verdict.parts.items()}
    return Verdict(finite(verdict.reward), bool(verdict.correct), Status(verdict.status), parts)


def finite(value: float) -> float:
    """A reward as a Python float. Raises ValueError if it is infinite or not a number."""
    reward = float(value)
    if not math.isfinite(reward):
        raise ValueError(f"the reward is {reward}; it must be a finite number")
    return reward


def stop_if_all_failed(statuses: Iterable[str], reasons: Mapping[str, int]) -> None:
    """Raise an Alarm if every verified response failed with an error that has a reason.

    `reasons` counts error messages. Truncated responses were not verified, and a refused answer has no reason.

    >>> stop_if_all_failed(["verifier_error"] * 2, {"KeyError: 'a' (mine.py:3)": 2})  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    sieverl.errors.Alarm: every answer of the verifier was an error: KeyError: 'a' (mine.py:3), 2 times; repair ...
    """
    verified = [status for status in statuses if status != Status.TRUNCATED]
    if not verified or set(verified) != {Status.VERIFIER_ERROR} or sum(reasons.values()) < len(verified):
        return
    reason, count = max(reasons.items(), key=lambda item: item[1])
    others = f" and {sum(reasons.values()) - count} others" if len(reasons) > 1 else ""
    raise Alarm(
        f"every answer of the verifier was an error: {reason}, {count} times{others}; repair it and run the same "
        "command again"
    )


def gold_answers(row: Row) -> list[str]:
    """The gold answers of a row as text: `row["answer"]` is a string, a number or a list of them.

    Raises DataError if there is none, or an empty one.

    >>> gold_answers({"answer": 27.0}), gold_answers({"answer": ["a", "b"]})
    (['27'], ['a', 'b'])
    """
    answer: object = row.get("answer")
    answer = answer.tolist() if hasattr(answer, "tolist") else answer
    texts = [as_text(value) for value in (answer if isinstance(answer, list | tuple) else [answer])]
    if not texts or not all(texts):
        raise DataError(f"The gold answer of a row is {answer!r}; give each row an answer in its column `answer`.")
    return texts


def as_text(value: object) -> str:
    """A gold answer as text. A whole float loses its decimal point, since some datasets store 27 as 27.0."""
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return str(value).strip()


def one_of(option: str, value: str, allowed: Iterable[str]) -> str:
    """Return `value`, or raise a UsageError that lists the allowed ones.

    >>> one_of("boxes", "lst", ["first", "last"])
    Traceback (most recent call last):
    sieverl.errors.UsageError: verify.boxes is 'lst'; it can be first, last. Did you mean last?
    """
    names = list(allowed)
    if value not in names:
        raise UsageError(f"verify.{option} is {value!r}; it can be {', '.join(names)}.{nearest(str(value), names)}")
    return value
