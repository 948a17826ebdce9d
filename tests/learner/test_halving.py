"""Out of memory in the learner: the gradients are those of the smaller micro-batches, which later steps keep."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from toys import SUMS, batch, gradient, learner

from sieverl.algorithms import get_algorithm
from sieverl.distributed.allocator import is_out_of_memory
from sieverl.distributed.world import World
from sieverl.errors import UsageError
from sieverl.learner.batches import MiniBatch, pack
from sieverl.learner.halving import Budget
from sieverl.learner.learner import Learner
from sieverl.model.policy import Policy

BUDGET = 48


def out_of_memory() -> torch.OutOfMemoryError:
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")


def cannot_allocate() -> RuntimeError:
    return RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")


def small_memory(
    monkeypatch: pytest.MonkeyPatch, tokens: int, error: Callable[[], BaseException] = out_of_memory
) -> list[int]:
    """Have forwards of more than `tokens` tokens raise `error`; the sizes of those that did."""
    refused: list[int] = []
    forward = Policy.response_hidden

    def limited(policy: Policy, packed: Any) -> torch.Tensor:
        if len(packed.ids_P) > tokens:
            refused.append(len(packed.ids_P))
            raise error()
        hidden: torch.Tensor = forward(policy, packed)
        return hidden

    monkeypatch.setattr(Policy, "response_hidden", limited)
    return refused


def toy(model: Any, name: str = "reinforce", budget: int = BUDGET) -> tuple[Learner, list[MiniBatch]]:
    responses, mine = batch()
    algorithm = get_algorithm(name)
    return learner(model, algorithm, budget), pack(responses, algorithm.credit(responses), mine, algorithm, 2)


def gradients(run: Learner, batches: list[MiniBatch]) -> list[torch.Tensor]:
    """Of each mini-batch, at the same weights."""
    out = []
    for one in batches:
        run.backward(one, dict.fromkeys(SUMS, 0.0))
        out.append(gradient(run))
    return out


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("error", [out_of_memory, MemoryError, cannot_allocate])
def test_gradients_are_those_of_the_smaller_micro_batch(
    random_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, error: Callable[[], BaseException], threads: int
) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)  # with two there is a replica, whose gradients must be forgotten too
        model = random_model(dtype=torch.float64)
        fewer, work = toy(model, budget=BUDGET // 2)
        expected = gradients(fewer, work)
        run, work = toy(model)
        refused = small_memory(monkeypatch, BUDGET // 2 // threads, error)
        found = gradients(run, work)
    finally:
        torch.set_num_threads(before)
    assert refused, "the first attempt did not fit"
    assert run.budget.tokens == BUDGET // 2
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert run.tokens_seen == fewer.tokens_seen, "work that failed is not counted"


@pytest.mark.parametrize("name", ["grpo", "ppo"])
def test_a_whole_step_with_scores_and_a_critic_is_the_same_and_counted(
    random_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    fewer, work = toy(random_model(dtype=torch.float64), name, BUDGET // 2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    expected = fewer.score(work) | fewer.update(work)
    run, work = toy(random_model(dtype=torch.float64), name)
    small_memory(monkeypatch, BUDGET // 2)
    found = run.score(work) | run.update(work)
    assert found.pop("memory/halved") == 1
    assert expected.pop("memory/halved") == 0
    assert found == expected
    assert run.budget.tokens == fewer.budget.tokens
    assert run.update(work)["memory/halved"] == 0, "kept, not found out again"


def test_one_response_that_does_not_fit_ends_in_a_message(
    random_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, work = toy(random_model())
    refused = small_memory(monkeypatch, 3)
    with pytest.raises(UsageError, match=r"one response.*activation_checkpointing = true.*rollout\.max_tokens"):
        gradients(run, work)
    assert len(refused) < 12


def test_a_rank_of_a_sharded_model_does_not_begin_anew_alone() -> None:
    def work(tokens: int) -> None:
        raise out_of_memory()

    with pytest.raises(UsageError, match=r"rank 1 is out of memory with train\.micro_batch_tokens = 64.* 32 in a new"):
        Budget(64, World(1, 2), together=True).fit(work, [5, 5])


def test_another_error_is_not_hidden() -> None:
    calls = []

    def work(tokens: int) -> None:
        calls.append(tokens)
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        Budget(64, World()).fit(work, [5, 5])
    assert calls == [64]


def test_what_failed_is_freed_before_the_next_attempt() -> None:
    held: list[weakref.ref[torch.Tensor]] = []

    def work(tokens: int) -> bool:
        if held:
            gc.collect()
            return held[0]() is None
        tensor = torch.zeros(9)
        held.append(weakref.ref(tensor))
        raise out_of_memory()

    assert Budget(64, World()).fit(work, [40, 40])


def test_the_allocator_of_this_version_is_understood() -> None:
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        torch.empty(10**16)
    assert is_out_of_memory(caught.value)
