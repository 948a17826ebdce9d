"""Chunked log-probs and entropies against the plain computation, forward and backward, and their memory."""

from __future__ import annotations

import pytest
import torch

from sieverl.model import logprobs
from sieverl.model.logprobs import TokenLogp, chunks, finish_logits
from sieverl.model.policy import Policy


def plain(hidden, weight, bias, target, scale, softcap, temperature):
    logits = finish_logits(torch.nn.functional.linear(hidden, weight, bias), scale * temperature, softcap) / temperature
    logp = logits.log_softmax(-1)
    return logp.gather(1, target[:, None])[:, 0], -(logp.exp() * logp).sum(-1)


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_log_probs_and_entropies_equal_the_plain_ones(monkeypatch, softcap, bias, temperature):
    monkeypatch.setattr(logprobs, "CHUNK_BYTES", 16 * 4 * 53)  # many chunks of 16 rows
    torch.manual_seed(0)
    hidden, weight = torch.randn(70, 8, dtype=torch.float64), torch.randn(53, 8, dtype=torch.float64)
    b = torch.randn(53, dtype=torch.float64) if bias else None
    target, out = torch.randint(53, (70,)), torch.randn(2, 70, dtype=torch.float64)
    inputs = [x.requires_grad_() for x in (hidden, weight, b) if x is not None]
    ours = TokenLogp.apply(hidden, weight, b, target, 0.5 / temperature, softcap, temperature, True)
    theirs = plain(hidden, weight, b, target, 0.5 / temperature, softcap, temperature)
    for a, e in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-12, atol=1e-12)
    grads = [torch.autograd.grad((r[0] * out[0] + r[1] * out[1]).sum(), inputs) for r in (ours, theirs)]
    for a, e in zip(*grads, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-10, atol=1e-12)


def test_without_entropy_only_log_probs_have_a_gradient():
    hidden, weight = torch.randn(5, 4, dtype=torch.float64, requires_grad=True), torch.randn(9, 4, dtype=torch.float64)
    logp, entropy = TokenLogp.apply(hidden, weight, None, torch.arange(5), 1.0, None, 1.0, False)
    assert entropy.eq(0).all()
    logp.sum().backward()
    theirs = plain(hidden, weight, None, torch.arange(5), 1.0, None, 1.0)[0]
    torch.testing.assert_close(hidden.grad, torch.autograd.grad(theirs.sum(), hidden)[0])


def test_chunks_bound_the_logits_held():
    for vocabulary in (64, 4096, 152_064):
        parts = list(chunks(100_000, vocabulary))
        assert [p.start for p in parts[1:]] == [p.stop for p in parts[:-1]]
        assert max(p.stop - p.start for p in parts) * vocabulary * 4 <= max(logprobs.CHUNK_BYTES, 64 * vocabulary)


def test_no_tensor_of_tokens_by_vocabulary_is_made(monkeypatch):
    """Largest tensor in forward and backward: one chunk of logits, whatever the number of tokens."""
    monkeypatch.setattr(logprobs, "CHUNK_BYTES", 1 << 16)
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        size = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for x in out if isinstance(out, (tuple, list)) else [out]:
                if isinstance(x, torch.Tensor):
                    Largest.size = max(Largest.size, x.untyped_storage().nbytes())
            return out

    hidden, weight = torch.randn(2000, 8, requires_grad=True), torch.randn(500, 8, requires_grad=True)
    with Largest():
        TokenLogp.apply(hidden, weight, None, torch.zeros(2000, dtype=torch.long), 1.0, None, 1.0, False)[
            0
        ].sum().backward()
    assert Largest.size <= 2 * max(1 << 16, hidden.nbytes, weight.nbytes)
    assert Largest.size < 2000 * 500 * 4 / 20


@pytest.mark.parametrize("family", ["llama", "granite", "gemma3_text", "phi"])
def test_a_policy_gives_the_models_own_logits(random_model, family):
    model = random_model(family)
    policy, ids = Policy(model, None), torch.tensor([[3, 4, 5, 6, 7, 8, 9, 10]])
    with torch.no_grad():
        torch.testing.assert_close(policy.logits(policy.hidden(ids)), model(ids).logits)


def test_bfloat16_computes_the_same_logits_forward_and_backward(random_model):
    """In bfloat16 the recomputed softmax must belong to the forward's norm: probabilities sum to one."""
    policy = Policy(random_model(), None, torch.bfloat16)
    ids = torch.randint(3, 97, (4, 12))
    with policy.in_compute_dtype():
        hidden = policy.hidden(ids).reshape(-1, 32).detach()
    head = policy.head.weight
    logp, _ = policy.logp(hidden, ids.reshape(-1), 1.0, False)
    logp.sum().backward()
    assert logp.dtype == torch.float32
    logits = (hidden.bfloat16() @ head.detach().bfloat16().T).float()
    grad_logits = torch.nn.functional.one_hot(ids.reshape(-1), 97) - logits.softmax(-1)
    torch.testing.assert_close(head.grad, grad_logits.T @ hidden.float(), rtol=0.05, atol=0.05)
