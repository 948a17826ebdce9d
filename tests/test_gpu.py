"""The same numbers on a GPU as on a CPU: packed hidden states, log-probs, sampling, and one update. `make test-gpu`."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from conftest import FAMILIES
from toys import batch, group, learner

from sieverl.algorithms import get_algorithm
from sieverl.engines.builtin import BuiltinEngine
from sieverl.engines.protocol import Request, SamplingParams
from sieverl.learner.batches import pack
from sieverl.model.packed import layout
from sieverl.model.policy import Policy

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no GPU"),
]
NEAR = {torch.float64: 1e-6, torch.float32: 1e-3}
DTYPES = sorted(NEAR, key=str)


def both(model: Any) -> tuple[Policy, Policy]:
    """A policy on the CPU and a copy on the GPU."""
    return Policy(model, None), Policy(copy.deepcopy(model).cuda(), None)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_packed_hidden_states(random_model: Callable[..., Any], family: str, dtype: torch.dtype) -> None:
    cpu, gpu = both(random_model(family, dtype))
    assert gpu.can_pack == cpu.can_pack
    ours, theirs = (p.response_hidden(layout(group(), p.device)).cpu() for p in (gpu, cpu))
    torch.testing.assert_close(ours, theirs, rtol=NEAR[dtype], atol=NEAR[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_rollouts(random_model: Callable[..., Any], family: str, dtype: torch.dtype) -> None:
    """Noise does not depend on the device, so in float64 the tokens are the same, and log-probs are close."""
    found = []
    for policy in both(random_model(family, dtype)):
        engine = BuiltinEngine(policy)
        requests = [Request(0, [5, 6, 7], 4, seed=1), Request(1, [8, 9, 10, 11, 12], 4, seed=1)]
        found.append(engine.sample(requests, SamplingParams(70, (2,))))
    for a, b in zip(*found, strict=True):
        if dtype == torch.float64:
            assert a.tokens == b.tokens
        same = next(
            (i for i, pair in enumerate(zip(a.tokens, b.tokens, strict=False)) if pair[0] != pair[1]), len(a.logp)
        )
        np.testing.assert_allclose(a.logp[:same], b.logp[:same], atol=NEAR[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["reinforce_rej", "grpo", "ppo"])
def test_one_update(random_model: Callable[..., Any], name: str, dtype: torch.dtype) -> None:
    algorithm = get_algorithm(name)
    after = []
    for policy in both(random_model(dtype=dtype)):
        responses, mine = batch()
        batches = pack(responses, algorithm.credit(responses), mine, algorithm, 2)
        run = learner(policy.model, algorithm)
        run.score(batches)
        run.update(batches)
        after.append(torch.cat([p.detach().flatten().cpu() for p in policy.model.parameters()]))
    torch.testing.assert_close(*after, rtol=NEAR[dtype], atol=NEAR[dtype])


def test_bfloat16_is_near_float32(random_model: Callable[..., Any]) -> None:
    model = random_model("llama").cuda()
    where = layout(group(), torch.device("cuda"))
    exact = Policy(copy.deepcopy(model), None).response_hidden(where).detach()
    near = Policy(model, None, torch.bfloat16).response_hidden(where).detach()
    assert float((near - exact).norm() / exact.norm()) < 0.05
