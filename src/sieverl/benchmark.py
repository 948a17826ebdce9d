"""Sample k responses to every prompt of a benchmark, verify them, and count: what training and `sieverl eval` share."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sieverl.evaluate import Interval, majority, scores
from sieverl.gather import Source, reasons_since
from sieverl.rollout.protocol import Engine, OnDone, Request, Sampling
from sieverl.rollout.verified import Scored, sample_verified
from sieverl.types import Rollout, Status
from sieverl.verify import describe, extract, numbers, stop_if_all_failed
from sieverl.verify.functions import gym_answer
from sieverl.verify.math import RULES

Read = Callable[[str], "str | None"]

TAIL = 2000  # characters at the end of a response where an unmarked answer is looked for
LONG = 1000  # characters beyond which an answer is not brought into one spelling
_SPAN = re.compile(r"\$\$?([^$]+)\$\$?|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)


@dataclass(frozen=True)
class Record:
    """The k responses to one prompt, sample by sample. `answers` are in one spelling, None where there is none."""

    prompt: int
    correct: tuple[bool, ...]
    lengths: tuple[int, ...]
    statuses: tuple[Status, ...]
    answers: tuple[str | None, ...]

    @property
    def majority(self) -> bool:
        """Whether the most common answer is right: the verdict of the first response that gave it."""
        winner = majority(self.answers)
        return winner is not None and self.correct[winner]


@dataclass(frozen=True)
class Summary:
    """Scores with 95% intervals (`avg@k`, `pass@j`, `maj@k`), and shares of all responses (and their mean length)."""

    scores: Mapping[str, Interval]
    shares: Mapping[str, float]


@dataclass
class Watched:
    """An engine that also tells `tick` of every response that ends."""

    engine: Engine
    tick: Callable[[], None]

    def sample(self, requests: Sequence[Request], sampling: Sampling, on_done: OnDone | None = None) -> list[Rollout]:
        def done(rollout: Rollout) -> None:
            self.tick()
            if on_done:
                on_done(rollout)

        return self.engine.sample(requests, sampling, done)

    def load(self, model: Any, version: int) -> None:
        self.engine.load(model, version)


def measure(source: Source, samples: int, read: Read) -> tuple[list[Record], list[Scored]]:
    """All ranks' records in the order of the prompts, and this rank's own responses.

    Response number s to a prompt depends on (seed, prompt id, s) and the weights only: the first 4 of 16 samples are
    those of a run with k = 4, the first 20 prompts those of a run with 20 (but for rounding in float32). `read` gives
    the answer that a response votes for. Raises an Alarm if every answer of the verifier is an error.
    """
    world = source.world
    mine = range(world.rank, len(source.prompts), world.size)
    requests = [Request(source.prompts[i].id, source.tokens[i], samples, source.seed, group=i) for i in mine]
    rows = {i: source.prompts[i].row for i in mine}
    before = Counter(source.pool.reasons)
    scored = sample_verified(source.engine, source.tokenizer, source.pool, requests, rows, source.sampling)
    own = [record(scored[i : i + samples], read) for i in range(0, len(scored), samples)]
    records = [one for part in world.gather(own) for one in part]
    stop_if_all_failed([s for one in records for s in one.statuses], reasons_since(source, before))
    return sorted(records, key=lambda one: one.prompt), scored


def record(scored: Sequence[Scored], read: Read) -> Record:
    """The record of one prompt's responses. What is truncated or has no answer takes no part in the vote."""
    mute = (Status.TRUNCATED, Status.NO_ANSWER)
    return Record(
        scored[0].rollout.group,
        tuple(s.verdict.correct for s in scored),
        tuple(len(s.rollout.tokens) for s in scored),
        tuple(s.verdict.status for s in scored),
        tuple(None if s.verdict.status in mute else read(s.text) for s in scored),
    )


def summarise(records: Sequence[Record]) -> Summary:
    """The numbers of a benchmark from its records, each with the same number of samples."""
    samples = len(records[0].correct)
    correct_P = np.array([sum(one.correct) for one in records])
    majority_P = np.array([one.majority for one in records])
    statuses = [status for one in records for status in one.statuses]
    shares = {"length_mean": float(np.mean([one.lengths for one in records]))}
    told = (Status.TRUNCATED, Status.NO_ANSWER, Status.VERIFIER_TIMEOUT, Status.VERIFIER_ERROR)
    shares |= {status.value: statuses.count(status) / len(statuses) for status in told}
    return Summary(scores(correct_P, majority_P, samples), shares)


# --- the answer that a response votes for -----------------------------------------------------------


def reader(spec: Mapping[str, Any]) -> Read:
    r"""How the vote reads an answer under a verifier's specification: where that looks for it, never at the gold.

    Answers are the same when they are one number (0.5 and \frac12) or one text but for spacing, case and units.

    >>> read = reader({"name": "math"})
    >>> read(r"so \boxed{\frac12}"), read("it is 0.5"), read(r"the area is $2 \pi$."), read("")
    ('1/2', '1/2', '2\\pi', None)
    """
    while spec.get("name") == "sum":  # its first part says what is correct
        spec = spec["parts"][0]
    read = READERS.get(str(spec.get("name")), _expression)(spec)

    def spelled(response: str) -> str | None:
        return spelling(read(response) or "") or None

    return spelled


def spelling(text: str) -> str:
    """One spelling of answers that are the same number, or the same text but for case, spacing and units.

    >>> [spelling(text) for text in ("1,200.0", "1200", " North  East", "50%")]
    ['1200', '1200', 'north east', '50']
    """
    if len(text) > LONG:
        return text
    short = numbers.without_unit(numbers.tidy(text))
    number = numbers.read(short)
    return str(number.value) if number else short.casefold()


def _marked(response: str, spec: Mapping[str, Any]) -> str | None:
    """What stands in the box or behind the marker that the verifier reads; None where nothing is marked."""
    rules = RULES.get(spec.get("rules", "strict"))
    boxes = spec.get("boxes", rules.boxes if rules else "last")
    found = extract.marked(response, boxes if boxes in extract.BOXES else "last", spec.get("after"))
    return None if found is None else ", ".join(found)


def _expression(spec: Mapping[str, Any]) -> Read:
    """The box, else the last number or formula, else the last line."""

    def last(text: str) -> str:
        spans = list(_SPAN.finditer(text))
        found = extract.numbers_in(text[spans[-1].end() :] if spans else text)
        if found:
            return found[-1]
        if spans:
            return next(part for part in spans[-1].groups() if part)
        return (text.strip().splitlines() or [""])[-1]

    return lambda response: last(response[-TAIL:]) if (box := _marked(response, spec)) is None else box


def _choice(spec: Mapping[str, Any]) -> Read:
    """The letter that the verifier itself reads."""
    check = describe(spec)
    letters = spec.get("letters", "ABCDE")
    return lambda response: next((x for x in letters if check.full(response, {"answer": x}).correct), None)


def _whole(spec: Mapping[str, Any]) -> Read:
    """The box, else the whole response."""
    return lambda response: response if (box := _marked(response, spec)) is None else box


READERS: dict[str, Callable[[Mapping[str, Any]], Read]] = {
    "math": _expression,
    "number": _expression,
    "choice": _choice,
    "string": _whole,
    "reasoning_gym": lambda spec: lambda response: gym_answer(response, spec.get("after")),
}


def watched(source: Source, tick: Callable[[], None]) -> Source:
    """The same source with an engine that tells `tick` of every response that ends."""
    return replace(source, engine=Watched(source.engine, tick))
