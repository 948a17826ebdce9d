"""Time: hand-worked numbers, and what must grow or shrink."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from plans import SETTING, WORK, fsdp, plan

from sieverl.errors import UsageError
from sieverl.planning.generation import generate
from sieverl.planning.lengths import Lengths
from sieverl.planning.machine import GPUS, Efficiency, Machine
from sieverl.planning.plan import cheapest, choices
from sieverl.planning.shape import BUILT_IN, Shape
from sieverl.planning.step import forward_flops, step_time, update_flops
from sieverl.planning.work import Work

TOY = Shape("toy", layers=1, hidden=4, intermediate=6, heads=2, kv_heads=1, head_size=2, vocabulary=10, tied=False)
PERFECT = Efficiency(update=1, prefill=1, decode=1, link=1, reserve=0)
SLOW = Machine("slow", 1e9, bandwidth=1000, flops=1e12, link=1e9, latency=0, efficiency=PERFECT)
EQUAL = Work(prompts=1, samples=2, prompt_tokens=3, lengths=Lengths(5, 1, 8))  # two responses of 5 tokens


def test_decode_steps_by_hand() -> None:
    """Each step reads 160 weights in 2 bytes; a token has 2 x 1 x 1 x 2 numbers of keys and values in 2 bytes."""
    found = generate(TOY, SETTING, EQUAL, SLOW)
    weights, token = (120 + 40) * 2, 2 * 2 * 2
    context = 2 * 3 + 2 * 5 / 2  # prompts, and half of what will be there, in the mean over the steps
    assert found.steps == 5
    assert found.memory == pytest.approx(5 * (weights + context * token) / 1000)
    assert (found.compute, found.latency, found.link) == (0, 0, 0)
    assert found.bound == "memory bandwidth"


def test_the_built_in_engine_waits_for_a_batch_and_another_fills_places() -> None:
    work = Work(4, 4, 10, Lengths(50, 3, 200))
    own = generate(TOY, replace(SETTING, max_num_seqs=4), work, SLOW)
    other = generate(TOY, replace(SETTING, max_num_seqs=4, engine="vllm"), work, SLOW)
    assert own.steps > other.steps >= work.response_tokens / 4


def test_flops_by_hand() -> None:
    """120 weights; 1 prompt of 3 tokens once and 2 x 5 response tokens; two sequences of 8 attend to themselves."""
    forward = 2 * 120 * (3 + 10) + 2 * (2 * 1 * 2 * 2 * 64)
    assert forward_flops(TOY, EQUAL) == pytest.approx(forward)
    head = 2 * 10 * 40
    assert update_flops(TOY, SETTING, EQUAL) == pytest.approx(3 * forward + 4 * head)
    again = replace(SETTING, activation_checkpointing=True)
    assert update_flops(TOY, again, EQUAL) == pytest.approx(4 * forward + 4 * head)
    assert update_flops(TOY, replace(SETTING, lora_rank=1), EQUAL) == pytest.approx(2 * forward + 3 * head)


def test_selection_saves_scoring_and_update_and_nothing_of_generation() -> None:
    shape, machine = BUILT_IN["Qwen2.5-7B"], GPUS["H100"]
    work = replace(WORK, old=True)
    few, all_ = (step_time(shape, SETTING, replace(work, kept=kept), machine) for kept in (0.25, 1.0))
    for one, other in zip(few, all_, strict=True):
        if one.name in ("score", "update"):
            assert 0.2 < one.seconds / other.seconds < 0.45, one.name
        else:
            assert one == other
    saved = [plan(work=replace(work, kept=kept)).saved for kept in (1.0, 0.75, 0.5, 0.25, 0.0)]
    assert saved[0] == 0
    assert saved == sorted(saved)
    assert step_time(shape, SETTING, replace(work, kept=0.0), machine)[3].bound == "nothing kept"


def test_more_gpus_are_never_slower_under_hybrid_sharding() -> None:
    times = [
        plan(setting=replace(fsdp(gpus), shard=8), work=replace(WORK, prompts=1024)).seconds for gpus in (8, 16, 64)
    ]
    assert times == sorted(times, reverse=True)


def test_a_step_across_slow_links_is_bound_by_them() -> None:
    one = plan(setting=fsdp(64))
    slow = replace(one, machine=replace(one.machine, network=1e9))
    update = next(phase for phase in slow.phases if phase.name == "update")
    assert update.bound == "links"
    assert slow.seconds > one.seconds
    assert next(phase for phase in plan(setting=SETTING).phases if phase.name == "update").sent == 0


def test_lengths_have_the_mean_and_the_tail_asked_for() -> None:
    lengths = sorted(Lengths(100, 4, 10_000).sample(10_000))
    assert sum(lengths) / len(lengths) == pytest.approx(100, rel=0.01)
    assert lengths[9_900] == pytest.approx(400, rel=0.1)
    cut = Lengths(300, 8, 400).sample(1000)
    assert max(cut) == 400
    assert sum(cut) / 1000 == pytest.approx(300, rel=0.01)
    assert set(Lengths(7, 1, 9).sample(20)) == {7}
    with pytest.raises(UsageError, match=r"between 1 and rollout.max_tokens = 64"):
        Lengths(65, 3, 64)
    with pytest.raises(UsageError, match=r"--tail is 0.5"):
        Lengths(30, 0.5, 64)


def test_the_choice_is_the_fastest_that_fits_and_changes_only_how() -> None:
    one = plan(setting=replace(SETTING, gpus=8))
    found = choices(one)
    best = cheapest(found, one)
    assert best is not None
    assert best.name == "fsdp"
    alike = [c.plan.seconds for c in found if c.plan.fits and not c.plan.setting.lora_rank]
    assert best.plan.seconds <= 1.03 * min(alike)
    assert "--distributed.strategy fsdp" in best.plan.setting.options(one.setting)
    assert best.plan.work == one.work


def test_adapters_are_proposed_only_where_all_weights_do_not_fit() -> None:
    small = plan("Qwen2.5-0.5B", gpu="RTX4090")
    best = cheapest(choices(small), small)
    assert best is not None
    assert not best.plan.setting.lora_rank
    large = plan("Qwen2.5-7B", gpu="RTX4090")
    best = cheapest(choices(large), large)
    assert best is not None
    assert best.plan.setting.quantization == "nf4"
    assert cheapest(choices(plan("Llama-3-70B", gpu="RTX4090")), plan("Llama-3-70B", gpu="RTX4090")) is None


def test_a_70b_needs_an_engine_with_tensor_parallelism() -> None:
    one = plan("Llama-3-70B", setting=replace(SETTING, gpus=512))
    best = cheapest(choices(one), one)
    assert best is not None
    assert best.plan.setting.engine == "vllm"
    assert best.plan.setting.tensor_parallel > 1


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"prompts": 1001, "samples": 1000}, "1,001 x rollout.samples = 1,000 responses cannot be planned"),
        ({"samples": 2**63}, "cannot be planned"),
        ({"prompt_tokens": 10**400}, "--prompt-tokens"),
    ],
)
def test_fuzz_a_step_of_billions_of_responses_is_refused(change: dict[str, Any], expected: str) -> None:
    """It filled the memory: the length of each response is a number in a list."""
    with pytest.raises(UsageError, match=expected):
        replace(WORK, **change)
