"""A batch in a checkpoint comes back as it was, on as many ranks as there are then."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
from fakes import Reciting, environment, on_ranks

from sieverl.algorithms.named import get_algorithm
from sieverl.data import Cursor
from sieverl.distributed.world import World
from sieverl.recipe import Rollout
from sieverl.rollout.collect import Batch, collect_rollouts
from sieverl.rollout.saved import from_saved, to_saved
from sieverl.types import Verdict

SAID = {0: ["7\n", "8\n"], 1: ["9\n", "10\n"], 2: ["11 and more", "\n"]}


def collected(world: World) -> Batch:
    """Two responses to each of three prompts, and a greedy one."""
    place, prompts = environment(Reciting(SAID, {0: "7\n", 1: "1\n", 2: "2\n"}), ["7", "9", "11"], 6, world)
    with place.pool:
        settings = Rollout(prompts=3, samples=2, max_tokens=6)
        batch = collect_rollouts(place, prompts, get_algorithm("remax"), Cursor(), settings)
    return replace(batch, version=4, seconds=0.5)


def test_it_comes_back_as_it_was() -> None:
    batch = collected(World())
    about, tensors = to_saved(batch, World())
    place, prompts = environment(Reciting(SAID), ["7", "9", "11"])
    with place.pool:
        again = from_saved(json.loads(json.dumps(about)), tensors, prompts, place)
    assert again.own == batch.own
    assert repr(replace(again, responses=batch.responses)) == repr(batch), "all but the arrays"
    for one, other in ((again.responses, batch.responses), (again.responses.greedy, batch.responses.greedy)):
        assert one is not None
        assert other is not None
        for name, value in vars(other).items():
            assert np.array_equal(getattr(one, name), value) if isinstance(value, np.ndarray) else True, name
            assert type(getattr(one, name)) is type(value), name


def test_it_is_shared_out_again_on_other_ranks() -> None:
    saved = on_ranks(2, lambda world: to_saved(collected(world), world))
    alone = to_saved(collected(World()), World())
    assert saved[0][0] == saved[1][0] == alone[0]
    assert all((saved[0][1][name] == tensor).all() for name, tensor in alone[1].items())
    place, prompts = environment(Reciting(SAID), ["7", "9", "11"], world=World(1, 2))
    with place.pool:
        batch = from_saved(*alone, prompts, place)
    assert sorted(batch.own) == [2, 3], "the group with number 1"
    assert batch.own[2].verdict == Verdict.of(1.0)
