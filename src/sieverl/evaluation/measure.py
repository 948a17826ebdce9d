"""Sample k responses to every prompt of a benchmark, verify and count them, in training and in `sieverl eval`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from sieverl.engines.protocol import Engine, OnDone, Request, SamplingParams
from sieverl.evaluation.statistics import Interval, majority, scores
from sieverl.evaluation.votes import AnswerReader, answer_reader
from sieverl.rollout.environment import Environment, PromptSet
from sieverl.rollout.verified import Scored, sample_verified
from sieverl.types import Rollout, Row, Status, VerifierSpec
from sieverl.verify import stop_if_all_failed


@dataclass(frozen=True)
class Record:
    """The k responses to one prompt, in the order of the samples.

    `answers` are normalised, None where a response has none; `prompt` is the number of the prompt in its set.
    """

    prompt: int
    correct: tuple[bool, ...]
    lengths: tuple[int, ...]
    statuses: tuple[Status, ...]
    answers: tuple[str | None, ...]
    rewards: tuple[float, ...]

    @property
    def majority(self) -> bool:
        """Whether the most common answer is correct: the verdict of the first response that gave it."""
        winner = majority(self.answers)
        return winner is not None and self.correct[winner]


@dataclass(frozen=True)
class Summary:
    """Scores with 95% intervals (`avg@k`, `pass@j`, `maj@k`), shares of all responses, their mean length and reward."""

    scores: Mapping[str, Interval]
    shares: Mapping[str, float]


@dataclass(frozen=True)
class Measurement:
    """The records of all ranks in the order of the prompts, this rank's own responses, and the summary."""

    records: Sequence[Record]
    scored: Sequence[Scored]
    summary: Summary


@dataclass
class Watched:
    """An engine that also calls `tick` for every response that ends."""

    engine: Engine
    tick: Callable[[], None]

    @property
    def version(self) -> int:
        return self.engine.version

    def sample(
        self, requests: Sequence[Request], sampling: SamplingParams, on_done: OnDone | None = None
    ) -> list[Rollout]:
        def done(rollout: Rollout) -> None:
            self.tick()
            if on_done:
                on_done(rollout)

        return self.engine.sample(requests, sampling, done)

    def load(self, weights: Mapping[str, Tensor], version: int) -> None:
        self.engine.load(weights, version)


Sample = Callable[[Environment, Sequence[Request], Mapping[int, Row], SamplingParams], list[Scored]]


def requests_of(prompts: PromptSet, samples: int, places: Sequence[int]) -> list[Request]:
    """The requests for `samples` responses to the prompts at these places, which are their groups."""
    return [Request(prompts.prompts[i].id, prompts.prompt_tokens[i], samples, prompts.seed, group=i) for i in places]


def measure(
    environment: Environment, prompts: PromptSet, samples: int, spec: VerifierSpec, sample: Sample = sample_verified
) -> Measurement:
    """`samples` responses to every prompt, verified and counted.

    Response number s to a prompt depends only on (seed, prompt id, s) and the weights: the first 4 of 16 samples are
    those of a run with k = 4, the first 20 prompts those of a run with 20 (up to rounding in float32). `spec` is the
    verifier's specification; it decides which answer a response votes for. `sample` samples and verifies. Raises an
    Alarm if every verdict is an error of the verifier.
    """
    world = environment.world
    mine = range(world.rank, len(prompts.prompts), world.size)
    requests = requests_of(prompts, samples, mine)
    rows = {i: prompts.prompts[i].row for i in mine}
    before = Counter(environment.pool.reasons)
    answer_of = answer_reader(spec)
    scored = sample(environment, requests, rows, prompts.sampling)
    own = [record(scored[i : i + samples], answer_of) for i in range(0, len(scored), samples)]
    records = sorted((one for part in world.all_gather(own) for one in part), key=lambda one: one.prompt)
    stop_if_all_failed([status for one in records for status in one.statuses], environment.reasons_since(before))
    return Measurement(records, scored, summarise(records))


def record(scored: Sequence[Scored], answer_of: AnswerReader) -> Record:
    """The record of one prompt's responses. Truncated ones and those without an answer do not vote."""
    silent = (Status.TRUNCATED, Status.NO_ANSWER)
    return Record(
        scored[0].rollout.group,
        tuple(s.verdict.correct for s in scored),
        tuple(len(s.rollout.tokens) for s in scored),
        tuple(s.verdict.status for s in scored),
        tuple(None if s.verdict.status in silent else answer_of(s.text) for s in scored),
        tuple(s.verdict.reward for s in scored),
    )


def summarise(records: Sequence[Record]) -> Summary:
    """Scores and shares from the records of a benchmark, which all have the same number of samples."""
    samples = len(records[0].correct)
    correct_P = np.array([sum(one.correct) for one in records])
    majority_P = np.array([one.majority for one in records])
    statuses = [status for one in records for status in one.statuses]
    shares = {"length_mean": float(np.mean([one.lengths for one in records]))}
    shares["reward_mean"] = float(np.mean([one.rewards for one in records]))
    counted = (Status.TRUNCATED, Status.NO_ANSWER, Status.VERIFIER_TIMEOUT, Status.VERIFIER_ERROR)
    shares |= {status.value: statuses.count(status) / len(statuses) for status in counted}
    return Summary(scores(correct_P, majority_P, samples), shares)
