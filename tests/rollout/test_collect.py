"""One step's responses, worked out by hand: which prompts, which samples, how many rounds, the cursor, the baseline.

Five prompts, all with the answer 1. With seed 0 they are taken in the order 2, 4, 3, 0, 1 (`data.cursor.permutation`).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes import Reciting, environment, on_ranks

from sieverl.algorithms import Algorithm, DynamicSampling
from sieverl.algorithms.credit import enough_of_both, mixed_groups
from sieverl.data import Cursor
from sieverl.data.cursor import permutation
from sieverl.distributed.world import World
from sieverl.errors import Alarm
from sieverl.recipe import Rollout as Settings
from sieverl.rollout.collect import Batch, collect_rollouts
from sieverl.types import Status, Verdict
from sieverl.verify import Pool

ANSWERS = ["1"] * 5
R, W = "1\n", "0\n"  # right, wrong
SETTINGS = Settings(prompts=2, samples=2)
NOISE_OF_EPOCH = {0: 0, 1: 1}  # derived_seed(0, epoch)

# What is said to each prompt, two samples a round
FRESH = {2: [R, R], 4: [R, W], 3: [W, W], 0: [W, R], 1: [R, W]}
AGAIN = {2: [W, W, W, R], 4: [R, R, R, R, R, W]}


def sample_step(engine: Reciting, sampling: DynamicSampling, cursor: Cursor | None = None) -> Batch:
    algorithm = Algorithm(sampling=sampling)
    return collect_rollouts(*environment(engine, ANSWERS), algorithm, cursor or Cursor(), SETTINGS)


def test_the_prompts_are_taken_in_the_order_that_the_cases_below_assume() -> None:
    assert permutation(5, 0, 0).tolist() == [2, 4, 3, 0, 1]


def test_one_round_by_default() -> None:
    engine = Reciting(FRESH)
    batch = sample_step(engine, DynamicSampling())
    assert (batch.rounds, batch.prompt_of_group, batch.cursor) == (1, [2, 4], Cursor(0, 2))
    assert batch.responses.prompt_R.tolist() == [0, 0, 1, 1]
    assert batch.responses.reward_R.tolist() == [1, 1, 1, 0]
    assert batch.status_R == ["correct"] * 3 + ["incorrect"]
    assert batch.responses.length_R.tolist() == [2] * 4, "the digit and the end"
    assert (batch.responses.samples, batch.responses.max_tokens) == (2, 40)
    assert batch.entropy == 1.0, "the fake engine's log-probs are all -1"
    assert not engine.asked_greedily


def test_fresh_prompts_take_the_place_of_those_that_teach_nothing() -> None:
    """DAPO: two prompts of mixed responses are wanted.

    round  prompts  said      mixed so far
    1      2, 4     RR, RW    4
    2      3        WW        4             one is missing, so one fresh prompt
    3      0        WR        4, 0          enough
    """
    engine = Reciting(FRESH)
    batch = sample_step(engine, DynamicSampling(until=mixed_groups, fresh_prompts=True, max_rounds=3))
    assert batch.rounds == 3
    assert batch.prompt_of_group == [2, 4, 3, 0]
    assert batch.cursor == Cursor(0, 4), "what was passed over is not taken again"
    assert batch.responses.prompt_R.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert batch.responses.reward_R.tolist() == [1, 1, 1, 0, 0, 0, 0, 1]
    asked = [(r.prompt_id, r.group, r.first, r.samples, r.seed) for r in engine.asked]
    assert asked == [(2, 0, 0, 2, 0), (4, 1, 0, 2, 0), (3, 2, 0, 2, 0), (0, 3, 0, 2, 0)]


def test_rounds_stop_at_the_most_that_are_allowed() -> None:
    batch = sample_step(Reciting(FRESH), DynamicSampling(until=mixed_groups, fresh_prompts=True, max_rounds=2))
    assert (batch.rounds, batch.prompt_of_group, batch.cursor) == (2, [2, 4, 3], Cursor(0, 3))


def test_rounds_stop_when_the_first_is_enough() -> None:
    said = {2: [R, W], 4: [W, R]}
    batch = sample_step(Reciting(said), DynamicSampling(until=mixed_groups, fresh_prompts=True, max_rounds=3))
    assert (batch.rounds, batch.prompt_of_group, batch.cursor) == (1, [2, 4], Cursor(0, 2))


def test_the_same_prompts_get_more_samples() -> None:
    """Reinforce-Ada with 2 samples: until a prompt has one right and one wrong response (half a group of each).

    round  prompt 2      prompt 4
    1      WW            RR
    2      WW WR: done   RR RR
    3                    RR RR RW: done
    """
    engine = Reciting(AGAIN)
    batch = sample_step(engine, DynamicSampling(until=enough_of_both, max_rounds=4))
    assert batch.rounds == 3
    assert batch.prompt_of_group == [2, 4]
    assert batch.cursor == Cursor(0, 2)
    assert batch.responses.prompt_R.tolist() == [0] * 4 + [1] * 6
    assert batch.responses.reward_R.tolist() == [0, 0, 0, 1, 1, 1, 1, 1, 1, 0]
    assert batch.responses.samples == 2, "the number asked for, not the number drawn"
    asked = [(r.prompt_id, r.group, r.first, r.samples) for r in engine.asked]
    assert asked == [(2, 0, 0, 2), (4, 1, 0, 2), (2, 0, 2, 2), (4, 1, 2, 2), (4, 1, 4, 2)]
    rollouts = batch.rollouts
    assert [(rollouts[row].group, rollouts[row].sample) for row in range(10)] == [
        *((0, sample) for sample in range(4)),
        *((1, sample) for sample in range(6)),
    ]


def test_an_epoch_ends_within_a_step_and_the_next_one_has_other_noise() -> None:
    engine = Reciting(FRESH)
    batch = sample_step(engine, DynamicSampling(), Cursor(0, 4))
    first_of_next = int(permutation(5, 0, 1)[0])
    assert batch.prompt_of_group == [1, first_of_next]
    assert batch.cursor == Cursor(1, 1)
    assert [(r.prompt_id, r.seed) for r in engine.asked] == [(1, NOISE_OF_EPOCH[0]), (first_of_next, NOISE_OF_EPOCH[1])]


def test_the_greedy_baseline_is_one_more_response_a_prompt_that_is_not_trained_on() -> None:
    """The greedy response is right for prompt 2 and wrong, and a token longer, for prompt 4."""
    engine = Reciting(FRESH, greedy={2: R, 4: "10\n"})
    batch = sample_step(engine, DynamicSampling(greedy_baseline=True))
    greedy = batch.responses.greedy
    assert greedy is not None
    assert greedy.prompt_R.tolist() == batch.responses.prompt_R.tolist() == [0, 0, 1, 1]
    assert greedy.reward_R.tolist() == [1, 1, 0, 0]
    assert greedy.correct_R.tolist() == [True, True, False, False]
    assert greedy.length_R.tolist() == [2, 2, 3, 3]
    assert sorted(batch.own) == [0, 1, 2, 3]
    assert [(r.prompt_id, r.first, r.samples) for r in engine.asked_greedily] == [(2, 0, 1), (4, 0, 1)]


def test_the_greedy_baseline_after_several_rounds_is_there_once_a_prompt() -> None:
    engine = Reciting(AGAIN, greedy={2: W, 4: R})
    batch = sample_step(engine, DynamicSampling(until=enough_of_both, max_rounds=4, greedy_baseline=True))
    assert batch.responses.greedy is not None
    assert batch.responses.greedy.reward_R.tolist() == [0] * 4 + [1] * 6
    assert [(r.prompt_id, r.first, r.samples) for r in engine.asked_greedily] == [(2, 0, 1), (4, 0, 1)]


def test_truncated_responses_are_not_verified_and_wrong() -> None:
    engine = Reciting({2: ["1" * 50, R], 4: [R, W]})
    batch = sample_step(engine, DynamicSampling())
    assert batch.status_R == ["truncated", "correct", "correct", "incorrect"]
    assert batch.responses.truncated_R.tolist() == [True, False, False, False]
    assert batch.responses.length_R.tolist() == [40, 2, 2, 2]
    assert batch.responses.reward_R.tolist() == [0, 1, 1, 0]


def test_known_verdicts_are_taken_where_the_response_is_the_same() -> None:
    """Of a step that is replayed: group 0 was judged otherwise then, and the log has another text for group 1."""
    judged = Verdict(0.25, False, Status.INCORRECT)
    known = {(0, 0): ("1", judged), (1, 0): ("another text", judged)}
    batch = collect_rollouts(
        *environment(Reciting(FRESH), ANSWERS), Algorithm(), Cursor(), SETTINGS, graded=None, known=known
    )
    assert batch.responses.reward_R.tolist() == [0.25, 1, 1, 0]
    assert batch.responses.graded, "0.25 is neither right nor wrong"


@pytest.mark.parametrize(("graded", "expected"), [(None, False), (True, True), (False, False)])
def test_rewards_of_0_and_1_are_graded_only_where_that_is_said(graded: bool | None, expected: bool) -> None:
    place = environment(Reciting(FRESH), ANSWERS)
    assert collect_rollouts(*place, Algorithm(), Cursor(), SETTINGS, graded).responses.graded is expected


def test_reasons_are_those_of_this_step() -> None:
    room, prompts = environment(Reciting(FRESH), ANSWERS)
    room.pool.reasons["KeyError: 'answer'"] = 7  # of an earlier step
    assert not collect_rollouts(room, prompts, Algorithm(), Cursor(), SETTINGS).reasons


def test_a_verifier_that_fails_every_time_stops_the_run(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("def fails(response, row):\n    return row['anser']\n")
    room, prompts = environment(Reciting(FRESH), ANSWERS)
    said = r"KeyError: 'anser' \(bad\.py:2\), 4 times"
    with Pool({"name": f"{tmp_path}/bad.py:fails"}, workers=1) as pool, pytest.raises(Alarm, match=said):
        collect_rollouts(replace(room, pool=pool), prompts, Algorithm(), Cursor(), SETTINGS)


@pytest.mark.parametrize(
    ("sampling", "said"),
    [
        (DynamicSampling(until=mixed_groups, fresh_prompts=True, max_rounds=3), FRESH),
        (DynamicSampling(until=enough_of_both, max_rounds=4, greedy_baseline=True), AGAIN),
    ],
)
def test_ranks_share_the_groups_and_know_all_rows(sampling: DynamicSampling, said: dict[int, list[str]]) -> None:
    greedy = {2: W, 4: R}
    alone = sample_step(Reciting(said, greedy), sampling)

    def rank(world: World) -> Batch:
        room, prompts = environment(Reciting(said, greedy), ANSWERS, world=world)
        return collect_rollouts(room, prompts, Algorithm(sampling=sampling), Cursor(), SETTINGS)

    both = on_ranks(2, rank)
    for number, batch in enumerate(both):
        assert (batch.rounds, batch.prompt_of_group, batch.cursor) == (
            alone.rounds,
            alone.prompt_of_group,
            alone.cursor,
        )
        assert batch.entropy == alone.entropy
        for name in ("prompt_R", "reward_R", "length_R"):
            np.testing.assert_array_equal(getattr(batch.responses, name), getattr(alone.responses, name))
        assert {scored.rollout.group % 2 for scored in batch.own.values()} == {number}
        if alone.responses.greedy is not None:
            assert batch.responses.greedy is not None
            np.testing.assert_array_equal(batch.responses.greedy.reward_R, alone.responses.greedy.reward_R)
    assert sorted([*both[0].own, *both[1].own]) == list(range(len(alone.responses)))
