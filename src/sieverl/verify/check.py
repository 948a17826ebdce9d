"""What a verifier is made of: how to score a response, a cheap way where one decides, what a right response is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sieverl.errors import Alarm, DataError, UsageError, nearest
from sieverl.types import Row, Status, Verdict

NO_ANSWER = Verdict(0.0, False, Status.NO_ANSWER)
NOT_APPLICABLE = Verdict(0.0, False, Status.NO_ANSWER)  # this one object: the function returned None
REFUSED = Verdict(0.0, False, Status.VERIFIER_ERROR)


class TooBig(Exception):
    """An answer that would take too long to read or to evaluate, and is refused."""


def binary(right: bool) -> Verdict:
    """Reward 1 or 0.

    >>> binary(True).reward, binary(False).status.value
    (1.0, 'incorrect')
    """
    return Verdict.of(float(right))


def undecided(response: str, row: Row) -> Verdict | None:
    """The cheap path of a verifier that has none."""
    return None


@dataclass(frozen=True)
class Verifier:
    """A verifier that is any callable `(response, row) -> Verdict`, and what the pool may know about it.

    `cheap` decides in the caller's process in microseconds, exactly as `full` would, or returns None; with `total` it
    always decides, so no worker is needed. `prepare` does the slow imports. `graded` says that rewards mean more than
    right and wrong; None: that is not known until a user's function is loaded and `declares` it, if it does. `gold`
    writes a response that must be right, or None where there is none.
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
    """The verdict of whatever a user's function returned: a number, a Verdict, or None, which means: does not apply.

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


def finite(value: Any) -> float:
    """A reward as a float; a ValueError if it is infinite or not a number."""
    reward = float(value)
    if not math.isfinite(reward):
        raise ValueError(f"the reward is {reward}; it must be a finite number")
    return reward


def stop_if_all_failed(statuses: Iterable[str], reasons: Mapping[str, int]) -> None:
    """An Alarm if every response that was verified is an error with a reason (what the rules refuse has none).

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
    """The gold answers of a row: `row["answer"]` is a string, a number or a list of them.

    >>> gold_answers({"answer": 27.0}), gold_answers({"answer": ["a", "b"]})
    (['27'], ['a', 'b'])
    """
    answer: Any = row.get("answer")
    answer = answer.tolist() if hasattr(answer, "tolist") else answer
    texts = [as_text(value) for value in (answer if isinstance(answer, list | tuple) else [answer])]
    if not texts or not all(texts):
        raise DataError(f"The gold answer of a row is {answer!r}; give each row an answer in its column `answer`.")
    return texts


def as_text(value: Any) -> str:
    """A gold answer as text; whole floats lose their point, since some sets store 27 as 27.0."""
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return str(value).strip()


def one_of(option: str, value: Any, known: Iterable[str]) -> Any:
    """`value`, or a UsageError that names what is allowed.

    >>> one_of("boxes", "lst", ["first", "last"])
    Traceback (most recent call last):
    sieverl.errors.UsageError: verify.boxes is 'lst'; it can be first, last. Did you mean last?
    """
    names = list(known)
    if value not in names:
        raise UsageError(f"verify.{option} is {value!r}; it can be {', '.join(names)}.{nearest(str(value), names)}")
    return value
