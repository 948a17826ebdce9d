"""Cut, drop, balance: from responses with credit to mini-batches and micro-batches.

Mini-batches are a partition of the sampled prompts by prompt order, made before selection, so the number of optimiser
steps is fixed and dropping a response equals masking it. Legend: R responses of all ranks, T tokens of one response.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sieverl.algorithms.algorithm import Algorithm
from sieverl.algorithms.shapes import BoolR, FloatT, IntR
from sieverl.algorithms.tokens import Denominator
from sieverl.distributed.world import World
from sieverl.types import Credit, Responses, Rollout


@dataclass
class Sample:
    """One response that the learner computes: its tokens, its advantage, and what is scored before the first step.

    `old_logp`, `ref_logp`, `value`, `token_advantage` and `value_target` are per response token, set by the learner
    when the algorithm needs them; `learner_logp` are the policy's log-probs as the learner first computed them. `pair`
    is the group of a preference pair, -1 without one.
    """

    prompt_tokens: Sequence[int]
    response_tokens: Sequence[int]
    engine_logp: Sequence[float]
    advantage: float = 0.0
    kept: bool = True
    pair: int = -1
    old_logp: FloatT | None = None
    ref_logp: FloatT | None = None
    value: FloatT | None = None
    token_advantage: FloatT | None = None
    value_target: FloatT | None = None
    learner_logp: FloatT | None = None
    row: int = -1  # among the responses of all ranks

    @staticmethod
    def of(rollout: Rollout, advantage: float = 0.0, kept: bool = True, pair: int = -1, row: int = -1) -> Sample:
        """The sample of a response."""
        return Sample(rollout.prompt_tokens, rollout.tokens, rollout.logp, advantage, kept, pair, row=row)

    def __len__(self) -> int:
        return len(self.prompt_tokens) + len(self.response_tokens)


@dataclass(frozen=True)
class MiniBatch:
    """One optimiser step: this rank's samples, and the denominator and the kept responses of all ranks."""

    samples: list[Sample]
    denominator: Denominator
    kept: int
    kept_tokens: int


def mini_batch_of(prompt_R: IntR, minibatches: int) -> IntR:
    """Which of `minibatches` mini-batches each response belongs to, by prompt order, int [R].

    >>> mini_batch_of(np.array([0, 0, 1, 2, 3, 3]), 2)
    array([0, 0, 0, 1, 1, 1])
    """
    ordered, index = np.unique(prompt_R, return_inverse=True)
    return index * minibatches // max(1, len(ordered))


def computed(credit: Credit, algorithm: Algorithm) -> BoolR:
    """Which responses go through the learner, bool [R]: the kept ones, or all where a penalty covers them."""
    return credit.keep | algorithm.penalises_sampled


def pack(
    responses: Responses,
    credit: Credit,
    rollouts: Mapping[int, Rollout],
    algorithm: Algorithm,
    minibatches: int,
) -> list[MiniBatch]:
    """Mini-batches of this rank. `rollouts` are the responses that it computes, by row; rows are those of all ranks."""
    batch_R = mini_batch_of(responses.prompt_R, minibatches)
    compute_R = computed(credit, algorithm)
    paired = algorithm.aggregate.unit == "pair"
    out = []
    for batch in range(minibatches):
        rows = np.flatnonzero(batch_R == batch)
        samples = [
            Sample.of(
                rollouts[row],
                advantage=float(credit.advantage[row]) if credit.keep[row] else 0.0,
                kept=bool(credit.keep[row]),
                pair=int(responses.prompt_R[row]) if paired else -1,
                row=row,
            )
            for row in rows[compute_R[rows]].tolist()
            if row in rollouts
        ]
        kept, selected = rows[credit.keep[rows]], rows[credit.selected[rows]]
        counted = selected if algorithm.denominator == "kept" else rows
        out.append(
            MiniBatch(
                samples,
                Denominator(
                    lengths=lengths_of(responses, counted),
                    sampled_lengths=lengths_of(responses, rows),
                    pairs=len(np.unique(responses.prompt_R[selected])),
                    max_tokens=responses.max_tokens,
                ),
                kept=len(kept),
                kept_tokens=int(responses.length_R[kept].sum()),
            )
        )
    return out


def lengths_of(responses: Responses, counted: IntR) -> list[int]:
    """The lengths of the counted rows. A group that a sieve stopped early counts as whole, with lengths as its own.

    >>> from dataclasses import replace
    >>> from sieverl.algorithms.algorithm import as_responses
    >>> responses, _ = as_responses([0, 0, 1, 0, 1], [7, 7, 8, 8, 8], None, None, [5, 6, 1, 2, 3])
    >>> lengths_of(replace(responses, samples=3), np.arange(5))
    [5, 6, 1, 2, 3, 5]
    """
    lengths: list[int] = responses.length_R[counted].tolist()
    group, size = np.unique(responses.prompt_R, return_counts=True)
    for stopped, rows in zip(group[size < responses.samples], size[size < responses.samples], strict=True):
        own = responses.length_R[counted[responses.prompt_R[counted] == stopped]]
        if len(own) == rows:
            lengths += np.resize(own, responses.samples)[rows:].tolist()
    return lengths


def by_prompt(samples: Sequence[Sample]) -> dict[tuple[int, ...], list[int]]:
    """Indices of the samples of each prompt, prompts in order of their first sample."""
    prompts: dict[tuple[int, ...], list[int]] = {}
    for i, sample in enumerate(samples):
        prompts.setdefault(tuple(sample.prompt_tokens), []).append(i)
    return prompts


def shares(samples: Sequence[Sample], count: int) -> list[list[Sample]]:
    """`samples` in at most `count` parts with similar numbers of tokens; a prompt is in one part.

    No part is empty unless there are no samples.

    >>> samples = [Sample([prompt] * 3, [1] * n, []) for prompt, n in ((1, 5), (2, 9), (1, 5), (3, 1))]
    >>> [[(s.prompt_tokens[0], len(s.response_tokens)) for s in part] for part in shares(samples, 2)]
    [[(1, 5), (1, 5)], [(2, 9), (3, 1)]]
    """
    prompts = by_prompt(samples)
    sizes = {
        prompt: len(prompt) + sum(len(samples[i].response_tokens) for i in indices)
        for prompt, indices in prompts.items()
    }
    parts: list[list[int]] = [[] for _ in range(max(1, min(count, len(prompts))))]
    load = [0] * len(parts)
    for prompt in sorted(prompts, key=lambda p: -sizes[p]):
        least = load.index(min(load))
        parts[least] += prompts[prompt]
        load[least] += sizes[prompt]
    return [[samples[i] for i in sorted(part)] for part in parts]


def agreed_micro_batches(samples: Sequence[Sample], budget: int, ranks: World | None) -> list[list[int]]:
    """`micro_batches`; with `ranks` as many on each of them, empty ones last, since all take part in every forward."""
    groups = micro_batches(samples, budget)
    missing = ranks.maximum(len(groups)) - len(groups) if ranks else 0
    return groups + [[] for _ in range(missing)]


def micro_batches(samples: Sequence[Sample], budget: int) -> list[list[int]]:
    """Indices of `samples` in groups of at most `budget` tokens; pairs stay whole.

    A group computes each of its prompts once, so the responses of a prompt stay together where they fit. A sample
    longer than the budget is a group of its own.

    >>> samples = [Sample([prompt] * 3, [1] * n, []) for prompt in (1, 2) for n in (9, 2, 8)]
    >>> micro_batches(samples, 15), micro_batches(samples, 40)
    ([[0, 1], [2], [3, 4], [5]], [[0, 1, 2, 3, 4, 5]])
    """
    groups: list[list[int]] = []
    used = budget
    for prompt, indices in by_prompt(samples).items():
        units: dict[tuple[int, int], list[int]] = {}
        for i in indices:
            units.setdefault((0, samples[i].pair) if samples[i].pair >= 0 else (1, i), []).append(i)
        sizes = [sum(len(samples[i].response_tokens) - 1 for i in unit) for unit in units.values()]
        whole = len(prompt) + sum(sizes)
        fresh = True  # the last group does not have the prompt yet
        for unit, size in zip(units.values(), sizes, strict=True):
            needed = whole if fresh and whole <= budget else size + fresh * len(prompt)
            if used + needed > budget or not groups:
                groups.append([])
                used, fresh = 0, True
            groups[-1] += unit
            used += size + fresh * len(prompt)
            fresh = False
    return groups
