"""Equal work for every rank: the responses that are computed move to the rank that computes them.

A rank samples its share of the prompts, and selection leaves each with another number of tokens. Every rank knows the
lengths of all responses, so all plan the same without a word; only tokens and log-probs travel, as tensors.
Legend: R responses of all ranks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from sieverl.algorithms.algorithm import Algorithm
from sieverl.algorithms.shapes import IntR
from sieverl.distributed.world import World
from sieverl.learner.batches import computed, mini_batch_of
from sieverl.types import Credit, Responses, Rollout

NOBODY = -1  # the rank of a response that is not computed


def assign_ranks(
    responses: Responses,
    credit: Credit,
    algorithm: Algorithm,
    minibatches: int,
    prompt_length: Sequence[int],
    ranks: int,
) -> IntR:
    """Which rank computes each response, int [R]; -1 for those that nobody computes.

    `prompt_length` are the tokens of each group's prompt. Within a mini-batch the groups go whole, largest first, to
    the rank with the least work while they fit below the mean; what is left over goes response by response, pairs
    together.
    """
    rank_R = np.full(len(responses), NOBODY)
    compute_R = computed(credit, algorithm)
    paired = algorithm.aggregate.unit == "pair"
    batch_R = mini_batch_of(responses.prompt_R, minibatches)
    for batch in range(minibatches):
        groups: dict[int, list[int]] = {}
        for row in np.flatnonzero(compute_R & (batch_R == batch)).tolist():
            groups.setdefault(int(responses.prompt_R[row]), []).append(row)
        size = {g: prompt_length[g] + int(responses.length_R[rows].sum()) for g, rows in groups.items()}
        load = np.zeros(ranks)
        rest: list[tuple[int, list[int]]] = []
        for group in sorted(groups, key=lambda g: -size[g]):
            least = int(load.argmin())
            if ranks * (load[least] + size[group]) <= sum(size.values()):
                rank_R[groups[group]] = least
                load[least] += size[group]
            else:
                units = [groups[group]] if paired else [[row] for row in groups[group]]
                rest += [(int(responses.length_R[unit].sum()), unit) for unit in units]
        for tokens, unit in sorted(rest, key=lambda one: -one[0]):
            least = int(load.argmin())
            rank_R[unit] = least
            load[least] += tokens
    return rank_R


def imbalance(responses: Responses, rank_R: IntR, minibatches: int, prompt_length: Sequence[int], ranks: int) -> float:
    """How much longer than the mean the longest rank takes, in tokens computed, as a share of the mean.

    Ranks meet after every mini-batch, so the longest ones of each are summed.

    >>> rows = np.array([0, 0, 1, 1]), np.ones(4), np.ones(4, dtype=bool), np.array([3, 5, 4, 4]), np.zeros(4, bool)
    >>> round(imbalance(Responses(*rows), np.array([0, 0, 0, 1]), 1, [2, 2], ranks=2), 3)  # 16 and 6 tokens
    0.455
    """
    batch_R = mini_batch_of(responses.prompt_R, minibatches)
    longest = total = 0
    for batch in range(minibatches):
        load = [0] * ranks
        for rank in range(ranks):
            rows = np.flatnonzero((batch_R == batch) & (rank_R == rank))
            prompts = np.unique(responses.prompt_R[rows]).tolist()
            load[rank] = int(responses.length_R[rows].sum()) + sum(prompt_length[g] for g in prompts)
        longest, total = longest + max(load), total + sum(load)
    return ranks * longest / total - 1 if total else 0.0


def redistribute(
    responses: Responses, rollouts: Mapping[int, Rollout], rank_R: IntR, prompts: Sequence[Sequence[int]], world: World
) -> dict[int, Rollout]:
    """The responses by row that this rank computes, given those that it sampled and each group's prompt."""
    if world.size == 1:
        return {row: rollouts[row] for row in np.flatnonzero(rank_R == 0).tolist()}
    owner_R = world.all_reduce(_mark(rollouts, len(responses), world.rank)).numpy()
    outgoing = [np.flatnonzero((owner_R == world.rank) & (rank_R == to)).tolist() for to in range(world.size)]
    incoming = [np.flatnonzero((owner_R == of) & (rank_R == world.rank)).tolist() for of in range(world.size)]
    lengths = responses.length_R
    sizes = [int(lengths[rows].sum()) for rows in outgoing], [int(lengths[rows].sum()) for rows in incoming]
    sent = [rollouts[row] for rows in outgoing for row in rows]
    token_T = world.all_to_all(torch.tensor([x for r in sent for x in r.tokens], dtype=torch.int64), *sizes)
    logp_T = world.all_to_all(torch.tensor([x for r in sent for x in r.logp], dtype=torch.float64), *sizes)
    rows = [row for part in incoming for row in part]
    cuts = lengths[rows].tolist()
    parts = zip(rows, token_T.split(cuts), logp_T.split(cuts), strict=True)
    received = {row: _rollout(responses, row, tokens, logp, prompts) for row, tokens, logp in parts}
    return dict(sorted(received.items()))


def _mark(rollouts: Mapping[int, Rollout], rows: int, rank: int) -> torch.Tensor:
    """This rank's number at the rows that it sampled, 0 elsewhere: the sum over ranks is the owner of each row."""
    owner_R = torch.zeros(rows, dtype=torch.int64)
    owner_R[list(rollouts)] = rank
    return owner_R


def _rollout(
    responses: Responses, row: int, tokens: torch.Tensor, logp: torch.Tensor, prompts: Sequence[Sequence[int]]
) -> Rollout:
    """A response as the learner needs it: of a response that came from another rank no more is known."""
    group, truncated = int(responses.prompt_R[row]), bool(responses.truncated_R[row])
    return Rollout(group, row, tokens.tolist(), logp.tolist(), truncated, group, prompts[group])
