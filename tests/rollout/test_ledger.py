"""The sieve before sampling: what the ledger counts, which prompts are passed over, which groups stop. By hand.

Five prompts, all with the answer 1. With seed 0 they are taken in the order 2, 4, 3, 0, 1 (`data.cursor.permutation`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace

import numpy as np
import pytest
from fakes import Reciting, environment, on_ranks
from pydantic import TypeAdapter

from sieverl.algorithms import get_algorithm
from sieverl.algorithms.algorithm import Algorithm, DynamicSampling
from sieverl.algorithms.axes import with_axes
from sieverl.algorithms.credit import enough_of_both, mixed_groups
from sieverl.algorithms.sieve import Belief, Sieve, Teaches, with_sieve
from sieverl.data import Cursor
from sieverl.distributed.world import World
from sieverl.engines.noise import keys, uniforms
from sieverl.learner.batches import pack
from sieverl.recipe import Rollout as Settings
from sieverl.rollout.collect import Batch, collect_rollouts, sifter_of
from sieverl.rollout.ledger import Ledger, Sifter, alike
from sieverl.types import Responses

R, W = "1\n", "0\n"  # right, wrong
SAID = {2: [R, R, R, W], 4: [R, W, R, W], 3: [W, W, W, W], 0: [W, W, R, R], 1: [R, R, R, R]}
SETTINGS = Settings(prompts=2, samples=4)
REJ = get_algorithm("reinforce_rej")
BOTH = Teaches(False, False)


def rows(groups: Sequence[Sequence[float]], samples: int = 4, correct: list[list[bool]] | None = None) -> Responses:
    reward_R = np.array([reward for group in groups for reward in group])
    right_R = reward_R >= 1 if correct is None else np.array([x for group in correct for x in group])
    prompt_R = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    none_R = np.zeros(len(reward_R), dtype=bool)
    return Responses(prompt_R, reward_R, right_R, none_R + 1, none_R, samples=samples)


def step(sieve: Sieve | None, cursor: Cursor | None = None, ledger: Ledger | None = None, **more: object) -> Batch:
    algorithm = replace(REJ, sampling=DynamicSampling(sieve=sieve, **more))  # type: ignore[arg-type]
    return collect_rollouts(
        *environment(Reciting(SAID), ["1"] * 5), algorithm, cursor or Cursor(), SETTINGS, ledger=ledger
    )


# --- the ledger -------------------------------------------------------------------------------------


def test_counts_are_discounted_and_forgotten() -> None:
    sieve = Sieve(discount=0.5)
    one = Ledger().after(rows([[1, 0, 0, 0], [0, 0, 0, 0]]), [7, 9], sieve)
    assert one.prompts == {"7": (1.0, 3.0, 1), "9": (0.0, 4.0, 1)}
    two = one.after(rows([[1, 1, 1, 1]]), [7], sieve)
    assert two.prompts["7"] == (4.5, 1.5, 2), "half of what was seen, and four more"
    assert two.prompts["9"] == (0.0, 4.0, 1), "as it was; its age counts when it is read"
    assert two.seen(9, 0.5) == (0.0, 2.0)
    assert two.seen(3, 0.5) is None
    later = two
    for _ in range(6):
        later = later.after(rows([[1, 0, 0, 0]]), [1], sieve)
    assert "9" not in later.prompts, "4 / 2^7 is less than a twentieth of a response"
    assert later.seen(9, 0.5) is None
    assert one.prompts == {"7": (1.0, 3.0, 1), "9": (0.0, 4.0, 1)}, "a ledger is a value"


def test_the_prior_has_the_moments_of_the_groups() -> None:
    """Solve rates of Beta(0.8, 1.2): the fit from first halves of groups of 8 finds it."""
    g = np.random.default_rng(0)
    ledger, sieve = Ledger(), Sieve(discount=1.0)
    for _ in range(20):
        p = g.beta(0.8, 1.2, 200)
        ledger = ledger.after(rows((g.random((200, 8)) < p[:, None]).astype(float).tolist(), 8), [0] * 200, sieve)
    assert ledger.prior == pytest.approx((0.8, 1.2), rel=0.1)
    assert Ledger(groups=1e6, rate=5e5, square=2.5e5).prior == pytest.approx((4, 4)), "no variance: 8 responses strong"
    one = Ledger(groups=1, rate=1, square=1).prior
    assert one.right / sum(one) == pytest.approx(5 / 9), "one group says little"


def test_a_stopped_group_and_a_whole_one_say_the_same_to_the_prior() -> None:
    whole, stopped = (Ledger().after(rows([group]), [0], Sieve()) for group in ([0, 0, 1, 1], [0, 0]))
    assert whole.prior == stopped.prior
    assert (whole.rate, whole.square) == (stopped.rate, stopped.square) == (0, 0)


def test_graded_rewards_that_differ_teach_though_no_answer_is_right() -> None:
    graded = rows([[0.2, 0.4, 0.2, 0.2], [0.3] * 4], correct=[[False] * 4] * 2)
    assert alike(graded, np.arange(4)) is None
    assert alike(graded, np.arange(4, 8)) is False
    ledger = Ledger().after(graded, [0, 1], Sieve())
    assert ledger.prompts == {"0": (2.0, 2.0, 1), "1": (0.0, 4.0, 1)}


def test_a_prompt_that_is_twice_in_a_batch_counts_twice() -> None:
    ledger = Ledger({"7": (8.0, 0.0, 0)}).after(rows([[1, 1, 1, 1], [0, 0, 0, 0]]), [7, 7], Sieve(discount=0.5))
    assert ledger.prompts == {"7": (8.0, 4.0, 1)}


def test_it_survives_a_checkpoint() -> None:
    ledger = Ledger().after(rows([[1, 0, 0, 0]]), [7], Sieve())
    assert TypeAdapter(Ledger).validate_json(json.dumps(asdict(ledger)), strict=True) == ledger


# --- prompts and groups -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sieve", [Sieve(threshold=0.0), Sieve(explore=1.0, threshold=1.0), Sieve(explore=1.0, first=1.0)]
)
def test_without_a_threshold_or_with_all_explored_nothing_changes(sieve: Sieve) -> None:
    known = Ledger(prompts={str(prompt): (0.0, 50.0, 0) for prompt in range(5)})
    plain, sieved = step(None), step(sieve, ledger=known)
    assert (sieved.skipped, sieved.stopped, sieved.cursor) == (0, 0, plain.cursor)
    assert sieved.prompt_of_group == plain.prompt_of_group
    assert sieved.responses.reward_R.tolist() == plain.responses.reward_R.tolist()
    assert [one.tokens for one in sieved.rollouts.values()] == [one.tokens for one in plain.rollouts.values()]


def test_prompts_that_will_not_teach_are_passed_over() -> None:
    known = Ledger(prompts={"2": (50.0, 0.0, 0), "4": (0.0, 50.0, 0), "3": (25.0, 25.0, 0)})
    batch = step(Sieve(explore=0.0, first=1.0), ledger=known)
    assert batch.prompt_of_group == [3, 0], "2 is always right, 4 always wrong; of 0 nothing is known"
    assert (batch.skipped, batch.cursor) == (2, Cursor(0, 4))
    assert step(Sieve(explore=0.0, first=1.0, skip=False), ledger=known).prompt_of_group == [2, 4]


def test_a_step_gets_its_prompts_though_none_will_teach() -> None:
    known = Ledger(prompts={str(prompt): (50.0, 0.0, 0) for prompt in range(5)})
    batch = step(Sieve(explore=0.0, first=1.0), ledger=known)
    assert (batch.skipped, len(batch.prompt_of_group)) == (5, 2), "each was passed over once, and no more"
    assert batch.cursor == Cursor(1, 2)


def test_groups_that_are_alike_so_far_are_stopped_and_others_get_all() -> None:
    """The prior is Beta(1/2, 1/2): after two alike responses two more differ with a chance of 1 - 0.833 x 0.875."""
    batch = step(Sieve(explore=0.0, threshold=0.28), cursor=Cursor(0, 1))
    assert batch.prompt_of_group == [4, 3]
    assert (batch.stopped, batch.responses.reward_R.tolist()) == (1, [1, 0, 1, 0, 0, 0])
    assert Sifter(Ledger(), Sieve(), BOTH, 4, 0).teaches.chance(Belief(0.5, 2.5), 2, False) == pytest.approx(
        0.2708, abs=1e-4
    )
    assert step(Sieve(explore=0.0, threshold=0.27), cursor=Cursor(0, 1)).stopped == 0


def test_what_an_algorithm_learns_from_is_not_stopped() -> None:
    raft = replace(get_algorithm("raft"), sampling=DynamicSampling(sieve=Sieve(explore=0.0, threshold=1.0)))
    room = environment(Reciting(SAID), ["1"] * 5)
    batch = collect_rollouts(*room, raft, Cursor(0, 2), Settings(prompts=3, samples=4))
    assert batch.prompt_of_group == [3, 0, 1]
    assert np.bincount(batch.responses.prompt_R).tolist() == [2, 2, 4], "RAFT learns from a group that is all right"


def test_what_is_left_out_is_sampled_at_the_known_rate() -> None:
    known = Ledger(prompts={str(prompt): (0.0, 50.0, 0) for prompt in range(1500)})
    sifter = Sifter(known, Sieve(explore=0.1), BOTH, 8, seed=0)
    skipped = np.array([sifter.skips(prompt, 0) for prompt in range(1500)])
    assert skipped.mean() == pytest.approx(0.9, abs=0.03)
    stopped = [sifter.stops(prompt, 0, False, 4) for prompt in range(1500)]
    assert stopped == skipped.tolist(), "a prompt that is explored gets its whole group"
    again = np.array([sifter.skips(prompt, 1) for prompt in range(1500)])
    assert (skipped == again).mean() == pytest.approx(0.82, abs=0.04), "another epoch has another coin"
    assert skipped.tolist() == [sifter.skips(prompt, 0) for prompt in range(1500)], "and the same one the same"


def test_what_is_explored_does_not_depend_on_its_responses() -> None:
    """In epoch 0 of seed 0 the noise of a prompt's first response has the key of its coin."""
    known = Ledger(prompts={str(prompt): (0.0, 50.0, 0) for prompt in range(1500)})
    sifter = Sifter(known, Sieve(explore=0.5), BOTH, 8, seed=0)
    explored = np.array([not sifter.skips(prompt, 0) for prompt in range(1500)])
    key = keys(np.zeros(1500, int), np.arange(1500), np.zeros(1500, int))
    for position in range(8):
        low = uniforms(key, position) < 0.5
        assert abs(np.corrcoef(explored, low)[0, 1]) < 0.1


def test_what_was_always_wrong_is_sampled_again_once_it_is_old() -> None:
    ledger, sieve = Ledger({"0": (0.0, 4.0, 1)}, 1, groups=100, rate=40, square=28), Sieve(explore=0.0)
    ages = [replace(ledger, batches=1 + age) for age in range(200)]
    skips = [Sifter(one, sieve, BOTH, 4, 0).skips(0, 0) for one in ages]
    assert skips[0]
    assert not skips[-1]
    assert skips == sorted(skips, reverse=True), "once, and for good"


@pytest.mark.parametrize(
    "more",
    [{}, {"until": mixed_groups, "fresh_prompts": True, "max_rounds": 3}, {"until": enough_of_both, "max_rounds": 2}],
)
def test_ranks_agree(more: dict[str, object]) -> None:
    sieve = Sieve(explore=0.0, threshold=1.0)
    said = {prompt: some * 4 for prompt, some in SAID.items()}
    algorithm = replace(REJ, sampling=DynamicSampling(sieve=sieve, **more))  # type: ignore[arg-type]

    def rank(world: World) -> Batch:
        room = environment(Reciting(said), ["1"] * 5, world=world)
        return collect_rollouts(*room, algorithm, Cursor(), SETTINGS)

    alone, both = rank(World()), on_ranks(2, rank)
    for batch in both:
        assert batch.responses.reward_R.tolist() == alone.responses.reward_R.tolist()
        assert (batch.stopped, batch.skipped, batch.cursor) == (alone.stopped, alone.skipped, alone.cursor)
    assert alone.stopped > 0


def test_a_stopped_group_is_not_sampled_again_by_reinforce_ada() -> None:
    engine = Reciting({prompt: some * 4 for prompt, some in SAID.items()})
    sampling = DynamicSampling(until=enough_of_both, max_rounds=4, sieve=Sieve(explore=0.0, threshold=1.0))
    room = environment(engine, ["1"] * 5)
    batch = collect_rollouts(*room, replace(Algorithm(), sampling=sampling), Cursor(0, 2), SETTINGS)
    assert sum(request.samples for request in engine.asked if request.prompt_id == 3) == 16, "it teaches reinforce: all"
    ada = replace(REJ, sampling=sampling)
    engine.asked.clear()
    batch = collect_rollouts(*room, ada, Cursor(0, 2), SETTINGS)
    assert sum(request.samples for request in engine.asked if request.prompt_id == 3) == 2
    assert batch.stopped == 2


@pytest.mark.parametrize("samples", [2, 3, 4])
@pytest.mark.parametrize("name", ["reinforce_rej", "grpo", "raft", "dapo", "iterative_dpo", "reinforce_ada"])
def test_what_is_left_of_a_group_has_credit(name: str, samples: int) -> None:
    """Also of groups of two or three, which are small to be judged by their first responses."""
    algorithm = with_sieve(get_algorithm(name), explore=0.0)
    room = environment(Reciting({prompt: some * 8 for prompt, some in SAID.items()}), ["1"] * 5)
    batch = collect_rollouts(*room, algorithm, Cursor(), Settings(prompts=5, samples=samples))
    algorithm.credit(batch.responses)


def test_a_stopped_group_counts_as_whole_in_the_loss() -> None:
    """The same loss as where the group is sampled whole, all wrong, and dropped; all responses have two tokens."""
    (whole, batch) = (step(sieve, Cursor(0, 1)) for sieve in (None, Sieve(explore=0.0, threshold=0.28)))
    assert (len(whole.responses), len(batch.responses), batch.stopped) == (8, 6, 1)
    for denominator in ("sampled", "kept"):
        algorithm = replace(REJ, denominator=denominator)
        (one,), (other,) = (
            pack(each.responses, algorithm.credit(each.responses), each.rollouts, algorithm, 1)
            for each in (whole, batch)
        )
        assert sorted(one.denominator.lengths) == sorted(other.denominator.lengths)
        assert [sample.advantage for sample in one.samples] == [sample.advantage for sample in other.samples]
        assert (one.kept, one.kept_tokens) == (other.kept, other.kept_tokens)


def test_the_later_rounds_of_reinforce_ada_are_part_of_the_chance() -> None:
    """Three wrong of eight: five more hardly mix them, twenty-nine well may."""
    ada = with_sieve(get_algorithm("reinforce_ada"))
    sifter, alone = sifter_of(ada, 8, 1, None), sifter_of(with_sieve(REJ), 8, 1, None)
    assert sifter is not None
    assert alone is not None
    assert (sifter.samples, alone.samples) == (32, 8)
    chance = BOTH.chance(Belief(0.5, 3.5), 29, right=False)
    assert BOTH.chance(Belief(0.5, 3.5), 5, right=False) < 0.5 < chance
    assert alone.stops(1, 0, right=False, responses=3)
    assert not sifter.stops(1, 0, right=False, responses=3)


def test_an_algorithm_that_learns_from_all_is_not_sifted() -> None:
    assert sifter_of(with_sieve(get_algorithm("reinforce")), 8, 0, None) is None
    assert sifter_of(with_axes(get_algorithm("grpo"), {"sieve": 0.5, "kl_coefficient": 0.01}), 8, 0, None) is None
    assert sifter_of(with_axes(get_algorithm("grpo"), {"sieve": 0.5}), 8, 0, None) is not None
