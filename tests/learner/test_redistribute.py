"""Kept responses move to the rank that computes them: each once, pairs together, equal tokens."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sieverl.algorithms.named import get_algorithm
from sieverl.distributed.world import World
from sieverl.learner.batches import mini_batch_of
from sieverl.learner.redistribute import assign_ranks, imbalance, redistribute
from sieverl.types import Credit, Responses, Rollout


def responses(prompt_R: list[int], length_R: list[int]) -> Responses:
    """Responses of these groups and lengths; rewards do not matter here."""
    count = len(prompt_R)
    return Responses(
        np.array(prompt_R, int), np.zeros(count), np.zeros(count, bool), np.array(length_R, int), np.zeros(count, bool)
    )


def credit(keep: list[bool]) -> Credit:
    """Credit that keeps these."""
    keep_R = np.array(keep, dtype=bool)
    return Credit(keep_R, keep_R * 1.0, keep_R * 1.0, keep_R)


GRPO, DPO, PENALISED = get_algorithm("grpo"), get_algorithm("iterative_dpo"), get_algorithm("reinforce_rej")


@given(
    groups=st.lists(st.lists(st.tuples(st.integers(1, 90), st.booleans()), min_size=1, max_size=6), max_size=7),
    ranks=st.integers(1, 5),
    minibatches=st.integers(1, 3),
)
def test_every_kept_response_has_one_rank_and_no_other_has(groups, ranks, minibatches):
    prompt_R = [g for g, rows in enumerate(groups) for _ in rows]
    made = responses(prompt_R, [n for rows in groups for n, _ in rows])
    kept = credit([keep for rows in groups for _, keep in rows])
    prompts = [7 + g for g in range(len(groups))]
    rank_R = assign_ranks(made, kept, GRPO, minibatches, prompts, ranks)
    assert ((rank_R >= 0) == kept.keep).all()
    assert rank_R.max(initial=-1) < ranks
    unequal = imbalance(made, rank_R, minibatches, prompts, ranks)
    assert 0 <= unequal <= ranks - 1
    assert ranks > 1 or unequal == 0


def test_pairs_stay_together() -> None:
    made = responses([g for g in range(5) for _ in range(2)], [9, 1, 8, 2, 7, 3, 6, 4, 5, 5])
    rank_R = assign_ranks(made, credit([True] * 10), DPO, 1, [3] * 5, 2)
    assert (rank_R[::2] == rank_R[1::2]).all()
    assert Counter(rank_R.tolist()) in (Counter({0: 6, 1: 4}), Counter({0: 4, 1: 6}))


def test_groups_go_whole_while_they_fit_and_one_group_alone_is_divided() -> None:
    made = responses([0, 0, 0, 0], [10, 10, 10, 10])
    assert sorted(assign_ranks(made, credit([True] * 4), GRPO, 1, [5], 2).tolist()) == [0, 0, 1, 1]
    made = responses([0, 0, 1, 1], [10, 10, 10, 10])
    assert assign_ranks(made, credit([True] * 4), GRPO, 1, [5, 5], 2).tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("ranks", [2, 8, 64])
def test_ranks_carry_equal_tokens_though_their_prompts_kept_unequal_numbers(ranks):
    """64 prompts a rank with 8 responses of a log-normal length, of which selection drops whole groups."""
    random = np.random.default_rng(ranks)
    groups = 64 * ranks
    prompt_R = np.repeat(np.arange(groups), 8)
    length_R = np.minimum(random.lognormal(5.5, 0.9, groups * 8).astype(int) + 1, 4096)
    keep_R = (random.random(groups) < 0.45)[prompt_R]
    made, kept = responses(prompt_R.tolist(), length_R.tolist()), credit(keep_R.tolist())
    prompts = random.integers(20, 200, groups).tolist()
    rank_R = assign_ranks(made, kept, GRPO, 2, prompts, ranks)
    assert imbalance(made, rank_R, 2, prompts, ranks) < 0.05
    where_sampled = np.where(keep_R, prompt_R % ranks, -1)
    assert imbalance(made, where_sampled, 2, prompts, ranks) > 0.05, "else there is nothing to balance"
    batch_R = mini_batch_of(made.prompt_R, 2)
    whole = sum(len(set(rank_R[(prompt_R == g) & (batch_R == batch_R[prompt_R == g][0])])) == 1 for g in range(groups))
    assert whole > 0.9 * groups, "a prompt is computed once, but for the last few"


def test_alone_a_rank_computes_what_is_kept() -> None:
    made = responses([0, 0, 1], [1, 2, 3])
    rollouts = {row: Rollout(0, row, [row] * (row + 1), [0.0] * (row + 1), False) for row in range(3)}
    rank_R = assign_ranks(made, credit([True, False, True]), GRPO, 1, [1, 1], 1)
    assert list(redistribute(made, rollouts, rank_R, [[1], [2]], World())) == [0, 2]
