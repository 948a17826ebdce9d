"""Log-probs of tokens from hidden states without ever holding [tokens, vocabulary] at once.

Legend: T tokens, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from sieverl.model.shapes import FloatT, FloatTD, FloatV, FloatVD, IntT

CHUNK_BYTES = 32 << 20  # float32 logits held at a time


def finish_logits(logits: Tensor, scale: float, softcap: float | None) -> Tensor:
    """The last steps of some families: a constant factor (Granite, Cohere), a soft cap (Gemma 2)."""
    if scale != 1.0:
        logits = logits * scale
    if softcap is not None:
        logits = torch.tanh(logits / softcap) * softcap
    return logits


class TokenLogp(torch.autograd.Function):
    """log softmax(W h / temperature)[target] and its entropy, chunk by chunk, forward and backward.

    The backward recomputes the logits of each chunk, so that memory does not grow with T x V. The softmax is float32
    (float64 for float64 weights) whatever the dtype of the matrix multiplication.
    """

    @staticmethod
    def _logits(
        hidden: Tensor, weight: Tensor, bias: Tensor | None, spec: tuple[float, float | None, float]
    ) -> tuple[Tensor, Tensor | None]:
        """float32 logits divided by the temperature, [T, V], and the derivative of the soft cap, if there is one."""
        scale, softcap, temperature = spec
        logits = torch.nn.functional.linear(hidden, weight, None if bias is None else bias.to(hidden.dtype))
        logits = logits if logits.dtype == torch.float64 else logits.float()
        if softcap is None:
            return (logits if scale == 1.0 else logits.mul_(scale)), None
        cap = torch.tanh(logits.mul_(scale * temperature / softcap))
        return cap * (softcap / temperature), 1 - cap**2

    @staticmethod
    def forward(  # many parameters: torch.autograd.Function takes every input by position
        ctx: Any,
        hidden: FloatTD,
        weight: FloatVD,
        bias: FloatV | None,
        target: IntT,
        scale: float,
        softcap: float | None,
        temperature: float,
        entropy: bool,
    ) -> tuple[FloatT, FloatT]:
        """Log-probs and entropies (zeros without `entropy`), in nats; `scale` is the family's over the temperature."""
        spec = (scale, softcap, temperature)
        weight_p = weight.to(hidden.dtype)
        out = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        logp, ent = (torch.zeros(len(target), dtype=out, device=hidden.device) for _ in range(2))
        norm = torch.empty_like(logp)
        for rows in chunks(len(target), weight.shape[0]):
            logits, _ = TokenLogp._logits(hidden[rows], weight_p, bias, spec)
            norm[rows] = logits.logsumexp(-1)
            logp[rows] = logits.gather(1, target[rows, None])[:, 0] - norm[rows]
            if entropy:
                logits -= norm[rows, None]
                ent[rows] = -(logits.exp() * logits).sum(-1)
        ctx.save_for_backward(hidden, weight, bias, target, norm, ent)
        ctx.spec, ctx.entropy = spec, entropy
        return logp, ent

    @staticmethod
    def backward(ctx: Any, grad_logp: FloatT, grad_ent: FloatT) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, target, norm, ent = ctx.saved_tensors
        weight_p = weight.to(hidden.dtype)
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight, dtype=norm.dtype) if ctx.needs_input_grad[1] else None
        grad_bias = torch.zeros_like(bias, dtype=norm.dtype) if bias is not None and ctx.needs_input_grad[2] else None
        scale = ctx.spec[0]
        for rows in chunks(len(target), weight.shape[0]):
            logits, slope = TokenLogp._logits(hidden[rows], weight_p, bias, ctx.spec)
            logits -= norm[rows, None]
            prob = logits.exp()
            if ctx.entropy:  # d entropy / d logits = -p (log p + entropy)
                logits = (logits + ent[rows, None]).mul_(prob).mul_(-grad_ent[rows, None])
                logits.addcmul_(prob, -grad_logp[rows, None])
            else:
                logits = prob.mul_(-grad_logp[rows, None])
            logits.scatter_add_(1, target[rows, None], grad_logp[rows, None].to(logits.dtype))
            if slope is not None:
                logits *= slope
            if scale != 1.0:
                logits *= scale
            grad = logits.to(hidden.dtype)
            grad_hidden[rows] = grad @ weight_p
            if grad_weight is not None:
                grad_weight.addmm_(grad.T, hidden[rows]) if grad.dtype == norm.dtype else grad_weight.add_(
                    grad.T @ hidden[rows]
                )
            if grad_bias is not None:
                grad_bias += logits.sum(0)
        cast = (None if g is None else g.to(w.dtype) for g, w in ((grad_weight, weight), (grad_bias, bias)))
        return (grad_hidden, *cast, None, None, None, None, None)


def chunks(tokens: int, vocabulary: int) -> Iterator[slice]:
    """Slices of tokens whose float32 logits take at most CHUNK_BYTES (at least 16 tokens).

    >>> list(chunks(40_000, 500))
    [slice(0, 16777, None), slice(16777, 33554, None), slice(33554, 40000, None)]
    """
    size = max(16, CHUNK_BYTES // (4 * vocabulary))
    for start in range(0, tokens, size):
        yield slice(start, min(start + size, tokens))
