"""Counted work, which is exact where seconds are not: tokens, forwards, optimiser steps, matrix multiplications."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from sieverl.algorithms import grpo, raft, reinforce_rej
from sieverl.engines.builtin import BuiltinEngine
from sieverl.engines.protocol import Request, SamplingParams
from sieverl.learner.batches import pack
from sieverl.learner.learner import Learner
from sieverl.model.policy import Policy
from sieverl.recipe import Train
from sieverl.types import Credit, Responses, Rollout

PROMPTS, SAMPLES, LONGEST = 32, 8, 100
PACKED = torch.ops.mkldnn._linear_pointwise
BUDGET = 1024  # tokens at a time
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "tie_word_embeddings": False}


def linear_flops(model, tokens: int, heads: int) -> int:
    """FLOPs of multiplications with weights: `tokens` through the layers, `heads` of them through the output layer."""
    head = model.get_output_embeddings().weight.numel()
    layers = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear)) - head
    return 2 * (layers * tokens + head * heads)


def counting() -> FlopCounterMode:
    """PyTorch's counter, with multiplications by packed weights, which it does not know."""
    packed = {PACKED: lambda x, weight, *rest, out_shape=None, **more: 2 * x[0] * x[1] * weight[0]}
    return FlopCounterMode(display=False, custom_mapping=packed)


def gemm_flops(counter: FlopCounterMode) -> int:
    """FLOPs of multiplications with weights; attention (batched, or an operation of its own) is left out."""
    wanted = (torch.ops.aten.mm, torch.ops.aten.addmm, PACKED)
    return sum(n for operation, n in counter.get_flop_counts()["Global"].items() if operation in wanted)


@pytest.fixture
def engine(random_model) -> BuiltinEngine:
    return BuiltinEngine(Policy(random_model("qwen2", **SIZES), None))


def long_tail(seed: int = 0) -> tuple[Responses, dict[int, Rollout]]:
    """Geometric lengths; a quarter of the prompts is all wrong, a quarter all right."""
    g = np.random.default_rng(seed)
    rows = PROMPTS * SAMPLES
    length = np.minimum(g.geometric(1 / 18, rows), LONGEST)
    reward = np.tile([0.0, 1.0], rows // 2).reshape(PROMPTS, SAMPLES)
    reward[: PROMPTS // 4], reward[PROMPTS // 4 : PROMPTS // 2] = 0.0, 1.0
    prompt = [g.integers(3, 97, 5).tolist() for _ in range(PROMPTS)]
    mine = {}
    for row in range(rows):
        response = g.integers(3, 97, length[row]).tolist()
        logp = [-1.0] * int(length[row])
        mine[row] = Rollout(0, row % SAMPLES, response, logp, False, 0, prompt[row // SAMPLES])
    flat = reward.ravel()
    index = np.repeat(np.arange(PROMPTS), SAMPLES)
    return Responses(index, flat, flat == 1, length, length == LONGEST, max_tokens=LONGEST), mine


def every(share: float, responses: Responses) -> Credit:
    """Credit for that share of the rows, evenly over the lengths."""
    rank = np.argsort(np.argsort(responses.length_R, kind="stable"))
    keep = np.floor((rank + 1) * share) > np.floor(rank * share)
    worth = np.where(np.arange(len(rank)) % 2, 1.0, -1.0)
    return Credit(keep, worth, worth, keep)


def update(model, algorithm=grpo, share: float | None = None) -> tuple[Learner, int, dict[str, float]]:
    """One update as the loop does it; the tokens it had to compute, and its metrics."""
    responses, mine = long_tail()
    credit = algorithm.credit(responses) if share is None else every(share, responses)
    learner = Learner(Policy(model, None), algorithm, Train(micro_batch_tokens=BUDGET))
    batches = pack(responses, credit, mine, algorithm, 1)
    metrics = learner.score(batches)
    metrics |= learner.update(batches)
    samples = batches[0].samples
    prompts = sum(map(len, {tuple(s.prompt_tokens) for s in samples}))
    return learner, prompts + sum(len(s.response_tokens) - 1 for s in samples), metrics


def test_engine_computes_each_token_once_and_nothing_else(engine):
    """Prompts once a group, sampled tokens once (a response's last never), no finished sequence, no extra forward."""
    requests = [Request(i, [5 + i, 7, 11, 13], SAMPLES, group=i) for i in range(PROMPTS)]
    with counting() as counter:
        rollouts = engine.sample(requests, SamplingParams(LONGEST, (2,)))
    lengths = [len(r.tokens) for r in rollouts]
    assert min(lengths) < 10 < max(lengths), "the lengths of this test must differ"
    later = sum(lengths) - len(lengths)
    assert engine.slots == later
    assert engine.steps == max(lengths) - 1
    assert gemm_flops(counter) == linear_flops(engine.policy.model, 4 * PROMPTS + later, PROMPTS + later)


def test_smaller_generation_batches_cost_no_more_tokens(random_model):
    requests = [Request(i, [5 + i, 7, 11, 13], SAMPLES, group=i) for i in range(PROMPTS)]
    slots = set()
    for sequences in (SAMPLES, 512):
        engine = BuiltinEngine(Policy(random_model("qwen2", **SIZES), None), sequences)
        engine.sample(requests, SamplingParams(LONGEST, (2,)))
        slots.add(engine.slots)
    assert len(slots) == 1


def test_update_makes_no_pass_that_nothing_needs(random_model):
    """On policy: one forward a micro-batch, no scoring pass, one optimiser step, each prompt once, no padding."""
    learner, tokens, metrics = update(random_model("qwen2", **SIZES), share=1.0)
    assert learner.tokens_seen == tokens
    assert learner.forwards <= 1.5 * tokens / (BUDGET // len(learner.replicas.policies)) + len(
        learner.replicas.policies
    )
    assert metrics["train/updates"] == 1


def test_update_is_three_multiplications_a_weight(random_model, set_threads):
    """Forward, backward to input and to weight; the output layer once more, since its logits are computed twice."""
    model = random_model("qwen2", **SIZES)
    set_threads(1)  # PyTorch counts in one thread
    with counting() as counter:
        learner, _, _ = update(model, share=1.0)
    responses = int(long_tail()[0].length_R.sum())
    layers, head = linear_flops(model, learner.tokens_seen, 0), linear_flops(model, 0, responses)
    assert gemm_flops(counter) <= 3 * layers + 4 * head


@pytest.mark.parametrize(("share", "limit"), [(0.75, 0.8), (0.5, 0.55), (0.25, 0.3), (0.1, 0.13)])
def test_what_is_dropped_is_not_computed(random_model, share, limit):
    model = random_model("qwen2", **SIZES)
    full, part = (update(model, share=s)[0] for s in (1.0, share))
    assert part.tokens_seen <= limit * full.tokens_seen


@pytest.mark.parametrize("algorithm", [reinforce_rej, raft, grpo], ids=["reinforce_rej", "raft", "grpo"])
def test_rejection_never_reaches_the_learner(random_model, algorithm):
    """Half of the prompts are all right or all wrong; half of the responses are right."""
    responses, mine = long_tail()
    (batch,) = pack(responses, algorithm.credit(responses), mine, algorithm, 1)
    assert len(batch.samples) == PROMPTS * SAMPLES // 2
    learner, tokens, _ = update(random_model("qwen2", **SIZES), algorithm)
    assert learner.tokens_seen == tokens
