"""The built-in engine against `generate`, against one full forward, and against itself in other company."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import FAMILIES
from jaxtyping import TypeCheckError

from sieverl.engines.builtin import BuiltinEngine, generation_batches
from sieverl.engines.protocol import Request, SamplingParams
from sieverl.engines.sampling import sample_token
from sieverl.errors import UsageError
from sieverl.model.policy import Policy
from sieverl.types import Rollout

PROMPTS = [[5, 6, 7], [8, 9, 10, 11, 12, 13, 14, 15], [20], [30, 31, 32, 33, 34]]


def requests(samples: int, prompts=PROMPTS) -> list[Request]:
    return [Request(i, tokens, samples) for i, tokens in enumerate(prompts)]


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_tokens_equal_generate_in_float64(random_model, family):
    model = random_model(family, torch.float64)
    engine = BuiltinEngine(Policy(model, None))
    rollouts = engine.sample(requests(1), SamplingParams(24, (2,), temperature=0.0))
    for prompt, rollout in zip(PROMPTS, rollouts, strict=True):
        ids = torch.tensor([prompt])
        with torch.no_grad():
            out = model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=24, eos_token_id=2
            )
        assert rollout.tokens == out[0, len(prompt) :].tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_log_probs_equal_one_full_forward(random_model, family):
    model = random_model(family)
    rollouts = BuiltinEngine(Policy(model, None)).sample(requests(3), SamplingParams(20, (2,), temperature=0.7))
    for rollout in rollouts:
        prompt = PROMPTS[rollout.prompt_id]
        with torch.no_grad():
            logits = model(torch.tensor([prompt + rollout.tokens])).logits[0, len(prompt) - 1 : -1]
        logp = (logits.float() / 0.7).log_softmax(-1).gather(1, torch.tensor(rollout.tokens)[:, None])[:, 0]
        np.testing.assert_allclose(rollout.logp, logp, atol=1e-4)


def test_a_response_does_not_depend_on_its_batch(random_model):
    policy = Policy(random_model(dtype=torch.float64), None)
    sampling = SamplingParams(30, (2, 3), temperature=1.0)
    together = BuiltinEngine(policy).sample(requests(4), sampling)
    in_batches = BuiltinEngine(policy, max_num_seqs=4).sample(requests(4), sampling)
    alone = BuiltinEngine(policy).sample([Request(1, PROMPTS[1], 2, first=2)], sampling)
    assert [r.tokens for r in together] == [r.tokens for r in in_batches]
    assert [r.tokens for r in together[6:8]] == [r.tokens for r in alone]
    other_seed = BuiltinEngine(policy).sample([Request(1, PROMPTS[1], 2, seed=1, first=2)], sampling)
    assert [r.tokens for r in other_seed] != [r.tokens for r in alone]


def test_finished_sequences_cost_nothing(random_model):
    engine = BuiltinEngine(Policy(random_model(), None))
    rollouts = engine.sample(requests(8), SamplingParams(40, tuple(range(2, 20))))
    lengths = [len(r.tokens) for r in rollouts]
    assert len(set(lengths)) > 3
    assert engine.slots == sum(lengths) - len(lengths), "each token but a response's last is fed once, and no padding"


def test_bfloat16_decodes_few_batch_sizes(random_model):
    model = random_model()
    engine = BuiltinEngine(Policy(model, None, torch.bfloat16))
    sizes: set[int] = set()  # of the batches whose logits are computed
    engine.policy.head.register_forward_hook(lambda module, given, out: sizes.add(len(given[0])))
    rollouts = engine.sample(requests(10), SamplingParams(60, tuple(range(2, 12))))
    lengths = [len(r.tokens) for r in rollouts]
    assert len(set(lengths)) > 12
    finished = engine.slots - (sum(lengths) - len(lengths))
    assert 0 < finished < 8 * engine.steps, "finished sequences are counted, and are few"
    assert sizes <= {40, 32, 24, 16, *range(9)}, "a kernel would be compiled for each other size"
    for rollout in rollouts:  # finished sequences in the batch change nothing
        prompt = PROMPTS[rollout.prompt_id]
        with torch.no_grad():
            logits = model(torch.tensor([prompt + rollout.tokens])).logits[0, len(prompt) - 1 : -1]
        logp = logits.log_softmax(-1).gather(1, torch.tensor(rollout.tokens)[:, None])[:, 0]
        np.testing.assert_allclose(rollout.logp, logp, atol=0.25)


def test_sampling_follows_the_distribution(random_model):
    model = random_model()
    rollouts = BuiltinEngine(Policy(model, None), max_num_seqs=5000).sample(
        [Request(0, [5, 6], 5000)], SamplingParams(1, (2,))
    )
    with torch.no_grad():
        expected = model(torch.tensor([[5, 6]])).logits[0, -1].softmax(-1).numpy()
    observed = np.bincount([r.tokens[0] for r in rollouts], minlength=97) / 5000
    assert np.abs(observed - expected).max() < 5 * np.sqrt(expected.max() / 5000)
    assert np.abs(observed - expected).sum() < 0.15


def test_ends_and_truncation(random_model):
    policy = Policy(random_model(), None)
    seen: list[Rollout] = []
    rollouts = BuiltinEngine(policy).sample(requests(6), SamplingParams(12, (2, 3, 4, 5, 6)), on_done=seen.append)
    assert {id(r) for r in seen} == {id(r) for r in rollouts}
    assert {r.truncated for r in rollouts} == {True, False}
    for r in rollouts:
        assert all(t > 6 or t < 2 for t in r.tokens[:-1])
        assert r.truncated == (r.tokens[-1] not in (2, 3, 4, 5, 6))
        assert len(r.tokens) == 12 or not r.truncated
        assert len(r.logp) == len(r.tokens)


def test_stop_strings_end_a_response(random_model):
    class Letters:
        pad_token_id = 0

        def encode(self, text, add_special_tokens):
            return []

        def batch_decode(self, rows, clean_up_tokenization_spaces=False):
            return ["".join(chr(97 + t % 26) for t in row) for row in rows]

    tokenizer = Letters()
    rollouts = BuiltinEngine(Policy(random_model(), tokenizer)).sample(
        requests(8), SamplingParams(30, (2,), stop=("a", "b"))
    )
    stopped = [r for r in rollouts if not r.truncated and r.tokens[-1] != 2]
    assert stopped
    for r in stopped:
        text = tokenizer.batch_decode([r.tokens])[0]
        assert text[-1] in "ab"
        assert "a" not in text[:-1]


def test_top_k_and_top_p_restrict(random_model):
    engine = BuiltinEngine(Policy(random_model(), None))
    greedy = engine.sample(requests(1), SamplingParams(10, (2,), temperature=0.0))
    for narrow in (SamplingParams(10, (2,), top_k=1), SamplingParams(10, (2,), top_p=1e-9)):
        assert [r.tokens for r in engine.sample(requests(1), narrow)] == [r.tokens for r in greedy]


@pytest.mark.parametrize("decoding", ["batched", "transformers_cache"])
def test_a_generation_batch_sampled_alone_gives_the_same_bits(random_model, decoding):
    """So an evaluation that goes on with the batches that it lacks is bit-identical, in float32 too."""
    engine = BuiltinEngine(Policy(random_model(), None), max_num_seqs=5)
    engine.decoding = decoding
    asked, sampling = requests(2, [*PROMPTS, [40, 41, 42], [50]]), SamplingParams(20, (2,), temperature=1.0)
    together, places = engine.sample(asked, sampling), engine.batches(asked)
    assert len(places) > 2
    assert sorted(place for batch in places for place in batch) == list(range(len(asked)))
    for batch in reversed(places):
        alone = engine.sample([asked[i] for i in batch], sampling)
        assert alone == [rollout for i in batch for rollout in together[2 * i : 2 * i + 2]]


@pytest.mark.parametrize("decoding", ["fused", "batched", "transformers_cache", "recompute"])
def test_out_of_memory_gives_the_same_responses_in_smaller_batches(random_model, monkeypatch, decoding):
    """What ended before is kept and told once; the rest is sampled with half as many at a time, as are later ones."""
    model = random_model(dtype=torch.float64)
    asked, sampling = requests(4), SamplingParams(30, tuple(range(2, 12)), temperature=1.0)
    plenty = BuiltinEngine(Policy(model, None))
    scarce = BuiltinEngine(Policy(model, None))
    plenty.decoding = scarce.decoding = decoding
    expected, decoded, told = plenty.sample(asked, sampling), list[int](), list[Rollout]()
    step = BuiltinEngine._step

    def limited(engine, decode, live, cache, padded):
        decoded.append(len(live.response))
        if len(decoded) > 3 and len(live.response) > 3:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return step(engine, decode, live, cache, padded)

    monkeypatch.setattr(BuiltinEngine, "_step", limited)
    assert [r.tokens for r in scarce.sample(asked, sampling, told.append)] == [r.tokens for r in expected]
    assert sorted((r.prompt_id, r.sample) for r in told) == [(p, s) for p in range(4) for s in range(4)]
    assert scarce.max_num_seqs < 16
    assert [r.tokens for r in scarce.sample(asked, sampling)] == [r.tokens for r in expected]


def test_a_response_that_does_not_fit_alone_is_said(random_model, monkeypatch):
    def never(*args):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(BuiltinEngine, "_prefill", never)
    with pytest.raises(UsageError, match=r"one response is sampled \(3 tokens of prompt and up to 9 more\)"):
        BuiltinEngine(Policy(random_model(), None)).sample(requests(2), SamplingParams(9, (2,)))
    monkeypatch.setattr(BuiltinEngine, "_prefill", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        BuiltinEngine(Policy(random_model(), None)).sample(requests(2), SamplingParams(9, (2,)))


def test_generation_batches_keep_order_and_bound():
    found = [[r.prompt_id for r in batch] for batch in generation_batches([Request(i, [1], 3) for i in range(5)], 7)]
    assert found == [[0, 1], [2, 3], [4]]
    assert [len(batch) for batch in generation_batches([Request(0, [1], 50)], 8)] == [1]


def test_wrong_shapes_are_noticed_in_tests():
    """Two sequences, three uniforms: without the check the first two would be used."""
    with pytest.raises(TypeCheckError, match="uniform_B"):
        sample_token(torch.zeros(2, 9), torch.zeros(3, dtype=torch.float64), SamplingParams(1, (2,)))
