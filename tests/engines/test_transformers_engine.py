"""Continuous batching as an engine: the model's own log-probs and distribution, and what it refuses."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from runs import run_it
from test_builtin_engine import PROMPTS, requests

from sieverl.engines.builtin import BuiltinEngine
from sieverl.engines.protocol import Request, SamplingParams
from sieverl.engines.transformers import TransformersEngine
from sieverl.errors import UsageError
from sieverl.model.policy import Policy
from sieverl.types import Rollout


@pytest.mark.parametrize("family", ["llama", "qwen2"])
@pytest.mark.parametrize("temperature", [0.7, 0.0])
def test_log_probs_equal_one_full_forward(random_model, family, temperature):
    model = random_model(family)
    engine = TransformersEngine(Policy(model, None), max_num_seqs=5)
    seen: list[Rollout] = []
    rollouts = engine.sample(requests(3), SamplingParams(20, (2, 3, 4, 5), temperature), on_done=seen.append)
    assert [(r.prompt_id, r.sample) for r in rollouts] == [(p, s) for p in range(4) for s in range(3)]
    assert {id(r) for r in seen} == {id(r) for r in rollouts}
    for rollout in rollouts:
        prompt = PROMPTS[rollout.prompt_id]
        with torch.no_grad():
            logits = model(torch.tensor([prompt + rollout.tokens])).logits[0, len(prompt) - 1 : -1]
        logp = (logits / (temperature or 1.0)).log_softmax(-1)
        logp = logp.gather(1, torch.tensor(rollout.tokens)[:, None])[:, 0]
        np.testing.assert_allclose(rollout.logp, logp, atol=1e-4)
        assert rollout.truncated == (rollout.tokens[-1] not in (2, 3, 4, 5))
        assert len(rollout.tokens) == 20 or not rollout.truncated


def test_greedy_tokens_are_those_of_the_built_in_engine(random_model):
    policy = Policy(random_model(dtype=torch.float64), None)
    sampling = SamplingParams(24, (2,), temperature=0.0)
    before = policy.causal.config._attn_implementation
    theirs = TransformersEngine(policy).sample(requests(1), sampling)
    assert policy.causal.config._attn_implementation == before
    assert [r.tokens for r in theirs] == [r.tokens for r in BuiltinEngine(policy).sample(requests(1), sampling)]


@pytest.mark.slow
def test_sampling_follows_the_distribution(random_model):
    model = random_model()
    sampling, prompt = SamplingParams(2, (96,)), [5, 6]
    rollouts = TransformersEngine(Policy(model, None), max_num_seqs=2000).sample([Request(0, prompt, 2000)], sampling)
    with torch.no_grad():
        expected = model(torch.tensor([prompt])).logits[0, -1].softmax(-1).numpy()
    observed = np.bincount([r.tokens[0] for r in rollouts], minlength=97) / 2000
    assert np.abs(observed - expected).max() < 5 * np.sqrt(expected.max() / 2000)
    assert np.abs(observed - expected).sum() < 0.25


def test_the_seed_decides(random_model):
    engine = TransformersEngine(Policy(random_model(), None))
    drawn = [
        [r.tokens for r in engine.sample([Request(0, PROMPTS[0], 4, seed)], SamplingParams(8, (2,)))]
        for seed in (0, 0, 1)
    ]
    assert drawn[0] == drawn[1] != drawn[2]


def test_nothing_is_asked_of_it_where_a_rank_has_no_group(random_model):
    assert TransformersEngine(Policy(random_model(), None)).sample([], SamplingParams(8, (2,))) == []


def test_top_k_and_top_p_restrict(random_model):
    engine = TransformersEngine(Policy(random_model(), None))
    greedy = engine.sample(requests(1), SamplingParams(10, (2,), temperature=0.0))
    for narrow in (SamplingParams(10, (2,), top_k=1), SamplingParams(10, (2,), top_p=1e-9)):
        assert [r.tokens for r in engine.sample(requests(1), narrow)] == [r.tokens for r in greedy]


def test_what_it_cannot_do_is_said(random_model, monkeypatch):
    policy = Policy(random_model(), None)
    engine = TransformersEngine(policy)
    with pytest.raises(UsageError, match="stop strings"):
        engine.sample(requests(1), SamplingParams(4, (2,), stop=("a",)))
    monkeypatch.setattr(policy.causal, "init_continuous_batching", None)
    with pytest.raises(UsageError, match=r'does not support continuous batching.*use rollout.engine = "torch"'):
        engine.sample(requests(1), SamplingParams(4, (2,)))


def test_a_run_whose_engine_is_not_the_learner(tmp_path):
    run_it(tmp_path, rollout__engine="transformers", dtype="float32", steps=2)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows] == [0, 1, 2]
    assert 0 < rows[1]["policy/engine_mismatch"] < 1e-4  # other kernels, the same weights
    assert rows[2]["policy/engine_mismatch"] < 1e-4  # after a step, too
    with pytest.raises(UsageError, match=r"does not support rollout\.stop"):
        run_it(tmp_path / "other", rollout__engine="transformers", rollout__stop=("a",))
