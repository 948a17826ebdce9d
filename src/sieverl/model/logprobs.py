"""Log-probs of tokens from hidden states without ever holding [tokens, vocabulary] at once.

Legend: T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

CHUNK_BYTES = 32 << 20  # float32 logits held at a time


def finish_logits(logits: Tensor, scale: float, softcap: float | None) -> Tensor:
    """A family's own last steps: a constant factor (Granite, Cohere), a soft cap (Gemma 2)."""
    if scale != 1.0:
        logits = logits * scale
    if softcap is not None:
        logits = torch.tanh(logits / softcap) * softcap
    return logits


class TokenLogp(torch.autograd.Function):
    """log softmax(W h / temperature)[target] and its entropy, chunk by chunk, forward and backward.

    The backward computes each chunk's logits again, so that memory does not grow with T x V. The softmax is float32
    (float64 for float64 weights) whatever the dtype of the product.
    """

    @staticmethod
    def _logits(
        hidden: Tensor, weight: Tensor, bias: Tensor | None, spec: tuple[float, float | None, float]
    ) -> tuple[Tensor, Tensor | None]:
        """float32 logits over temperature and, with a soft cap, the derivative of the cap."""
        scale, softcap, temperature = spec
        logits = torch.nn.functional.linear(hidden, weight, None if bias is None else bias.to(hidden.dtype))
        logits = logits if logits.dtype == torch.float64 else logits.float()
        if softcap is None:
            return (logits if scale == 1.0 else logits.mul_(scale)), None
        cap = torch.tanh(logits.mul_(scale * temperature / softcap))
        return cap * (softcap / temperature), 1 - cap**2

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        target: Tensor,
        scale: float,
        softcap: float | None,
        temperature: float,
        entropy: bool,
    ) -> tuple[Tensor, Tensor]:
        product = hidden.dtype
        spec = (scale, softcap, temperature)
        weight_p = weight.to(product)
        out = torch.float64 if product == torch.float64 else torch.float32
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
    def backward(ctx: Any, grad_logp: Tensor, grad_ent: Tensor) -> tuple[Any, ...]:
        hidden, weight, bias, target, norm, ent = ctx.saved_tensors
        weight_p = weight.to(hidden.dtype)
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight, dtype=norm.dtype) if ctx.needs_input_grad[1] else None
        grad_bias = torch.zeros_like(bias, dtype=norm.dtype) if bias is not None and ctx.needs_input_grad[2] else None
        factor = ctx.spec[0]
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
            if factor != 1.0:
                logits *= factor
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
    """Slices of tokens whose float32 logits take at most CHUNK_BYTES."""
    rows = max(16, CHUNK_BYTES // (4 * vocabulary))
    for start in range(0, tokens, rows):
        yield slice(start, min(start + rows, tokens))
