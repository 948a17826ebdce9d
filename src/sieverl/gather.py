"""One step's responses: draw prompts, sample, verify, and put the rows of all ranks together.

A group is one drawn prompt; its number (0, 1, ... within the step) is `prompt_R`, since small datasets repeat prompts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from sieverl.algorithm import Algorithm
from sieverl.data import Cursor
from sieverl.distributed import World
from sieverl.packing import Sample
from sieverl.rollout.protocol import Engine, Request, Sampling
from sieverl.rollout.verified import Known, Scored, sample_verified
from sieverl.types import Array, Prompt, Responses, Status
from sieverl.verify import Pool, stop_if_all_failed

# group, sample, reward, correct, status, length, truncated, parts of a sum
Row = tuple[int, int, float, bool, str, int, bool, Mapping[str, float | None]]


@dataclass(frozen=True)
class Source:
    """What responses are made from: prompts with their tokens, how to sample, who verifies."""

    prompts: Sequence[Prompt]
    tokens: Sequence[Sequence[int]]
    engine: Engine
    pool: Pool
    tokenizer: Any
    sampling: Sampling
    seed: int
    world: World = field(default_factory=World)


@dataclass
class Batch:
    """The responses of one step. `responses` are all ranks' rows; `mine` this rank's, by row; `drawn` prompts."""

    responses: Responses
    mine: dict[int, Sample]
    scored: dict[int, Scored]
    status_R: list[str]
    drawn: list[int]
    cursor: Cursor
    rounds: int = 1
    entropy: tuple[float, float] = (0.0, 0.0)
    reasons: Counter[str] = field(default_factory=Counter)  # of the verifier's errors, all ranks'
    parts_R: list[Mapping[str, float | None]] = field(default_factory=list)


@dataclass
class _Draws:
    """Rows so far and this rank's own responses."""

    drawn: list[tuple[int, int]] = field(default_factory=list)  # (prompt, noise seed) of each group
    samples: list[int] = field(default_factory=list)  # samples of each group so far
    rows: list[Row] = field(default_factory=list)
    own: dict[tuple[int, int], Scored] = field(default_factory=dict)


def gather(
    source: Source,
    algorithm: Algorithm,
    cursor: Cursor,
    prompts: int,
    samples: int,
    graded: Callable[[Array], bool],
    known: Known | None = None,
) -> Batch:
    """Sample and verify one step, in as many rounds as the algorithm's `draw` asks for (one by default)."""
    draws, draw = _Draws(), algorithm.draw
    wanted, again = prompts, list[int]()
    before = Counter(source.pool.reasons)
    rounds = 0
    while True:
        groups, cursor = _draw_fresh(source, draws, cursor, wanted)
        _sample(source, draws, [*groups, *again], samples, known)
        rounds += 1
        responses, status = _responses(source, draws.rows, samples, graded)
        if draw.until is None or rounds >= draw.rounds:
            break
        done = np.unique(responses.prompt_R[draw.until(responses)])
        missing = prompts - len(done)
        if missing <= 0:
            break
        wanted, again = (missing, []) if draw.fresh else (0, sorted(set(range(len(draws.drawn))) - set(done.tolist())))
    if draw.greedy:
        greedy = _greedy(source, draws, responses)
        both_R = np.concatenate([responses.reward_R, greedy.reward_R])
        responses = replace(responses, greedy=greedy, graded=graded(both_R))
    mine, scored, logp, tokens = {}, {}, 0.0, 0
    for row, key in enumerate(zip(responses.prompt_R.tolist(), _sample_index(draws), strict=True)):
        if key in draws.own:
            scored[row] = draws.own[key]
            rollout = scored[row].rollout
            logp, tokens = logp + sum(rollout.logp), tokens + len(rollout.tokens)
            mine[row] = Sample(source.tokens[draws.drawn[key[0]][0]], rollout.tokens, rollout.logp, 0.0)
    entropy = source.world.sum_floats([-logp, tokens])
    drawn = [prompt for prompt, _ in draws.drawn]
    reasons = reasons_since(source, before)
    stop_if_all_failed(status, reasons)
    return Batch(
        responses,
        mine,
        scored,
        status,
        drawn,
        cursor,
        rounds,
        (entropy[0], entropy[1]),
        reasons,
        [row[7] for row in draws.rows],
    )


def _draw_fresh(source: Source, draws: _Draws, cursor: Cursor, wanted: int) -> tuple[list[int], Cursor]:
    """Draw `wanted` new prompts; the same prompt gets other noise in another epoch."""
    if not wanted:
        return [], cursor
    size = len(source.prompts)
    indices, after = cursor.take(wanted, size, source.seed)
    epochs = [cursor.epoch + (cursor.index + i) // size for i in range(wanted)]
    groups = list(range(len(draws.drawn), len(draws.drawn) + wanted))
    draws.drawn += [(i, source.seed * 1_000_003 + epoch) for i, epoch in zip(indices, epochs, strict=True)]
    draws.samples += [0] * wanted
    return groups, after


def _requests(
    source: Source, draws: _Draws, groups: Sequence[int], samples: int
) -> tuple[list[Request], dict[int, Any]]:
    """This rank's share of the requests, one a group, and the columns of each prompt."""
    mine = [g for g in groups if g % source.world.size == source.world.rank]
    requests, rows = [], {}
    for group in mine:
        index, seed = draws.drawn[group]
        prompt = source.prompts[index]
        requests.append(Request(prompt.id, source.tokens[index], samples, seed, draws.samples[group], group))
        rows[group] = prompt.row
    return requests, rows


def _sample(source: Source, draws: _Draws, groups: Sequence[int], samples: int, known: Known | None) -> None:
    requests, rows = _requests(source, draws, groups, samples)
    own = sample_verified(source.engine, source.tokenizer, source.pool, requests, rows, source.sampling, known)
    draws.own |= {(s.rollout.group, s.rollout.sample): s for s in own}
    draws.rows = sorted(draws.rows + _gathered(source, own), key=lambda row: row[:2])
    for group in groups:
        draws.samples[group] += samples


def _gathered(source: Source, own: Sequence[Scored]) -> list[Row]:
    """The rows of all ranks' responses."""
    new = [
        (
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
    return [row for part in source.world.gather(new) for row in part]


def _sample_index(draws: _Draws) -> list[int]:
    return [row[1] for row in draws.rows]


def _responses(
    source: Source, table: Sequence[Row], samples: int, graded: Callable[[Array], bool]
) -> tuple[Responses, list[str]]:
    group, _, reward, correct, status, length, truncated, _ = zip(*table, strict=True)
    reward_R = np.array(reward, dtype=np.float64)
    rows = Responses(
        prompt_R=np.array(group, dtype=np.int64),
        reward_R=reward_R,
        correct_R=np.array(correct, dtype=bool),
        length_R=np.array(length, dtype=np.int64),
        truncated_R=np.array(truncated, dtype=bool),
        max_tokens=source.sampling.max_tokens,
        seed=source.seed,
        graded=graded(reward_R),
        samples=samples,
    )
    return rows, list(status)


def _greedy(source: Source, draws: _Draws, responses: Responses) -> Responses:
    """The greedy response of each row's prompt, row by row."""
    requests, rows = _requests(source, draws, range(len(draws.drawn)), 1)
    requests = [replace(r, first=0) for r in requests]
    sampling = replace(source.sampling, temperature=0.0)
    own = sample_verified(source.engine, source.tokenizer, source.pool, requests, rows, sampling)
    of_group = dict(zip(range(len(draws.drawn)), sorted(_gathered(source, own)), strict=True))
    table = [of_group[group] for group in responses.prompt_R.tolist()]
    return _responses(source, table, 1, lambda reward_R: responses.graded)[0]


def reasons_since(source: Source, before: Counter[str]) -> Counter[str]:
    """Why the verifier failed since it had given the reasons `before`, on all ranks."""
    parts: list[Counter[str]] = source.world.gather(source.pool.reasons - before)
    return sum(parts, Counter())


def counts(statuses: Sequence[str]) -> Mapping[str, int]:
    """How many responses have each status, every status named."""
    return {status.value: sum(s == status for s in statuses) for status in Status}
