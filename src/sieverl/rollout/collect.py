"""One step's responses: take prompts, sample, verify, and put the rows of all ranks together.

A group is one sampled prompt with its responses; its number (0, 1, ... within the step) is `prompt_R`, since small
datasets repeat prompts. Legend: R responses of all ranks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from sieverl.algorithms.algorithm import Algorithm
from sieverl.algorithms.sieve import teaches
from sieverl.data import Cursor
from sieverl.engines.noise import derived_seed
from sieverl.engines.protocol import Request
from sieverl.recipe import Rollout as Settings
from sieverl.rollout.environment import Environment, PromptSet
from sieverl.rollout.ledger import Ledger, Sifter
from sieverl.rollout.verified import KnownVerdicts, Scored, sample_verified
from sieverl.types import FloatArray, Responses, Rollout, Row
from sieverl.verify import stop_if_all_failed


class ResponseRow(NamedTuple):
    """What every rank knows of a response, whichever rank sampled it."""

    group: int
    sample: int
    reward: float
    correct: bool
    status: str
    length: int
    truncated: bool
    parts: Mapping[str, float | None]


@dataclass
class Batch:
    """The responses of one step. `responses` are the rows of all ranks; `own` those that this rank sampled, by row."""

    responses: Responses
    own: dict[int, Scored]
    status_R: list[str]
    prompt_of_group: list[int]  # index of each group's prompt in the prompt set
    cursor: Cursor
    rounds: int = 1
    entropy: float = 0.0  # minus the mean log-prob of all sampled tokens
    reasons: Counter[str] = field(default_factory=Counter)  # of the verifier's errors, of all ranks
    parts_R: list[Mapping[str, float | None]] = field(default_factory=list)
    skipped: int = 0  # prompts that the sieve passed over
    stopped: int = 0  # groups that it stopped early
    version: int = 0  # of the weights that sampled it
    seconds: float = 0.0  # that it took to sample and verify

    @property
    def rollouts(self) -> dict[int, Rollout]:
        """This rank's responses by row."""
        return {row: scored.rollout for row, scored in self.own.items()}


@dataclass
class _Sampled:
    """What was sampled so far in a step."""

    groups: list[tuple[int, int]] = field(default_factory=list)  # (index of the prompt, its epoch) of each group
    stopped: set[int] = field(default_factory=set)  # groups that the sieve stopped early
    skipped: int = 0
    samples: list[int] = field(default_factory=list)  # responses of each group so far
    rows: list[ResponseRow] = field(default_factory=list)
    own: dict[tuple[int, int], Scored] = field(default_factory=dict)


def collect_rollouts(
    environment: Environment,
    prompt_set: PromptSet,
    algorithm: Algorithm,
    cursor: Cursor,
    settings: Settings,
    graded: bool | None = False,
    known: KnownVerdicts | None = None,
    ledger: Ledger | None = None,
) -> Batch:
    """Sample and verify one step, in as many rounds as the algorithm's dynamic sampling asks for (one by default).

    `graded` says whether rewards mean more than right and wrong; None: as far as the rewards of this step show.
    `ledger` is what the algorithm's sieve goes by. Raises an Alarm when every verdict is an error of the verifier.
    """
    sampled, dynamic = _Sampled(), algorithm.sampling
    before = Counter(environment.pool.reasons)
    fresh, again = settings.prompts, list[int]()
    sifter = sifter_of(algorithm, settings.samples, prompt_set.seed, ledger)
    for rounds in range(1, dynamic.max_rounds + 1):  # noqa: B007 (how many there were is in the batch)
        groups, cursor = _next_prompts(prompt_set, sampled, cursor, fresh, sifter)
        first = settings.samples if sifter is None else sifter.sieve.first_of(settings.samples)
        _sample(
            environment,
            prompt_set,
            sampled,
            dict.fromkeys(groups, first) | dict.fromkeys(again, settings.samples),
            known,
        )
        if sifter is not None and first < settings.samples:
            going_on = _going_on(sifter, sampled, groups)
            _sample(environment, prompt_set, sampled, dict.fromkeys(going_on, settings.samples - first), known)
        responses = _responses(prompt_set, sampled.rows, settings.samples, graded)
        if dynamic.until is None:
            break
        done = np.unique(responses.prompt_R[dynamic.until(responses)])
        if len(done) >= settings.prompts:
            break
        fresh = settings.prompts - len(done) if dynamic.fresh_prompts else 0
        left = set(range(len(sampled.groups))) - set(done.tolist()) - sampled.stopped
        again = [] if dynamic.fresh_prompts else sorted(left)
        if not fresh and not again:
            break
    if dynamic.greedy_baseline:
        responses = replace(responses, greedy=_greedy(environment, prompt_set, sampled, responses))
    keys = [(row.group, row.sample) for row in sampled.rows]
    own = {i: sampled.own[key] for i, key in enumerate(keys) if key in sampled.own}
    status, reasons = [row.status for row in sampled.rows], environment.reasons_since(before)
    stop_if_all_failed(status, reasons)
    return Batch(
        responses,
        own,
        status,
        [prompt for prompt, _ in sampled.groups],
        cursor,
        rounds,
        _entropy(environment, own),
        reasons,
        [row.parts for row in sampled.rows],
        sampled.skipped,
        len(sampled.stopped),
    )


def sifter_of(algorithm: Algorithm, samples: int, seed: int, ledger: Ledger | None) -> Sifter | None:
    """What judges the prompts of a step; None without a sieve, or where the algorithm learns from every group."""
    dynamic = algorithm.sampling
    sieve = dynamic.sieve
    if sieve is None or sieve.threshold == 0 or all(learns_from := teaches(algorithm, samples)):
        return None
    rounds = dynamic.max_rounds if dynamic.until and not dynamic.fresh_prompts else 1  # that a group may get
    return Sifter(ledger or Ledger(), sieve, learns_from, samples * rounds, seed)


def _next_prompts(
    prompt_set: PromptSet, sampled: _Sampled, cursor: Cursor, count: int, sifter: Sifter | None
) -> tuple[list[int], Cursor]:
    """New groups of the next `count` prompts that are not passed over; a prompt gets other noise in another epoch.

    Once as many were passed over as there are prompts, none is any more: a step always gets its prompts.
    """
    size, first = len(prompt_set.prompts), len(sampled.groups)
    while len(sampled.groups) < first + count:
        (index,), after = cursor.take(1, size, prompt_set.seed)
        epoch, cursor = cursor.epoch, after
        if sifter is not None and sampled.skipped < size and sifter.skips(index, epoch):
            sampled.skipped += 1
            continue
        sampled.groups.append((index, epoch))
        sampled.samples.append(0)
    return list(range(first, first + count)), cursor


def _going_on(sifter: Sifter, sampled: _Sampled, groups: Sequence[int]) -> list[int]:
    """The groups that the sieve does not stop after their first responses."""
    rows: dict[int, list[ResponseRow]] = {group: [] for group in groups}
    for row in sampled.rows:
        if row.group in rows:
            rows[row.group].append(row)
    for group, some in rows.items():
        index, epoch = sampled.groups[group]
        same = len({(row.correct, row.reward) for row in some}) == 1
        if same and sifter.stops(index, epoch, some[0].correct, len(some)):
            sampled.stopped.add(group)
    return [group for group in groups if group not in sampled.stopped]


def _requests(
    environment: Environment, prompt_set: PromptSet, sampled: _Sampled, wanted: Mapping[int, int]
) -> tuple[list[Request], dict[int, Row]]:
    """This rank's share of the requests, one a group, and the columns of each prompt; `wanted` responses of a group."""
    world = environment.world
    requests, rows = [], {}
    for group, samples in wanted.items():
        if group % world.size == world.rank:
            index, epoch = sampled.groups[group]
            prompt, seed = prompt_set.prompts[index], derived_seed(prompt_set.seed, epoch)
            first = sampled.samples[group]
            requests.append(Request(prompt.id, prompt_set.prompt_tokens[index], samples, seed, first, group))
            rows[group] = prompt.row
    return requests, rows


def _sample(
    environment: Environment,
    prompt_set: PromptSet,
    sampled: _Sampled,
    wanted: Mapping[int, int],
    known: KnownVerdicts | None,
) -> None:
    """Sample and verify so many more responses of some groups."""
    if not wanted:
        return
    requests, rows = _requests(environment, prompt_set, sampled, wanted)
    own = sample_verified(environment, requests, rows, prompt_set.sampling, known)
    sampled.own |= {(s.rollout.group, s.rollout.sample): s for s in own}
    sampled.rows = sorted([*sampled.rows, *_all_rows(environment, own)], key=lambda row: (row.group, row.sample))
    for group, samples in wanted.items():
        sampled.samples[group] += samples


def _all_rows(environment: Environment, own: Sequence[Scored]) -> list[ResponseRow]:
    """The rows of all ranks' responses."""
    rows = [
        ResponseRow(
            s.rollout.group,
            s.rollout.sample,
            s.verdict.reward,
            s.verdict.correct,
            s.verdict.status.value,
            len(s.rollout.tokens),
            s.rollout.truncated,
            s.verdict.parts,
        )
        for s in own
    ]
    return [row for part in environment.world.all_gather(rows) for row in part]


def _responses(prompt_set: PromptSet, rows: Sequence[ResponseRow], samples: int, graded: bool | None) -> Responses:
    reward_R = np.array([row.reward for row in rows], dtype=np.float64)
    return Responses(
        prompt_R=np.array([row.group for row in rows], dtype=np.int64),
        reward_R=reward_R,
        correct_R=np.array([row.correct for row in rows], dtype=bool),
        length_R=np.array([row.length for row in rows], dtype=np.int64),
        truncated_R=np.array([row.truncated for row in rows], dtype=bool),
        max_tokens=prompt_set.sampling.max_tokens,
        seed=prompt_set.seed,
        graded=len(partial_rewards(reward_R)) > 0 if graded is None else graded,
        samples=samples,
    )


def partial_rewards(reward_R: FloatArray) -> FloatArray:
    """The rewards that are neither 0, 1 nor -1, and so mean more than right and wrong.

    >>> partial_rewards(np.array([1.0, 0.0, 0.5])).tolist()
    [0.5]
    """
    return reward_R[~np.isin(reward_R, (-1.0, 0.0, 1.0))]


def _greedy(environment: Environment, prompt_set: PromptSet, sampled: _Sampled, responses: Responses) -> Responses:
    """The greedy response of each row's prompt, row by row."""
    requests, rows = _requests(environment, prompt_set, sampled, dict.fromkeys(range(len(sampled.groups)), 1))
    requests = [replace(request, first=0) for request in requests]
    own = sample_verified(environment, requests, rows, replace(prompt_set.sampling, temperature=0.0))
    of_group = {row.group: row for row in _all_rows(environment, own)}
    table = [of_group[group] for group in responses.prompt_R.tolist()]
    return _responses(prompt_set, table, 1, responses.graded)


def _entropy(environment: Environment, own: Mapping[int, Scored]) -> float:
    """Minus the mean log-prob of all sampled tokens, of all ranks, in nats."""
    logp, tokens = 0.0, 0
    for scored in own.values():
        logp, tokens = logp + sum(scored.rollout.logp), tokens + len(scored.rollout.tokens)
    logp, total = environment.world.sum_floats([-logp, tokens])
    return logp / max(1.0, total)
