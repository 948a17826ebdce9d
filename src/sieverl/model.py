"""The policy: a Hugging Face causal LM, its tokenizer, and log-probs that never hold [tokens, vocabulary] at once.

Legend: B rows, L columns, D hidden size, T tokens, V vocabulary.
"""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from sieverl import attention, families, norm
from sieverl.errors import UsageError
from sieverl.packing import Layout, Sample, layout

CHUNK_BYTES = 32 << 20  # float32 logits held at a time


@dataclass
class Policy:
    """A causal LM with what goes with it. Parameters are float32 (or float64); `compute` is the forward's dtype."""

    model: Any
    tokenizer: Any
    compute: torch.dtype = torch.float32
    adapters: bool = True  # False: the start model, where the policy is the start model plus LoRA adapters

    def __post_init__(self) -> None:
        self.causal = self.model.get_base_model() if hasattr(self.model, "peft_config") else self.model
        self.own_attention = attention.use(self.causal)
        norm.use(self.causal)
        base = self.causal.base_model
        self.decoder = self.causal.model if base is self.causal else base  # Llama 4 names another prefix than it has
        self.head = self.causal.get_output_embeddings()
        if hasattr(self.head, "base_layer"):
            raise UsageError(
                "the LoRA adapters stand on the output layer, whose weights make the log-probs without them; leave "
                "it out of model.lora.targets (all-linear does)"
            )
        self.scale, self.softcap = families.logit_scale(self.causal.config), families.softcap(self.causal.config)
        self.device = next(self.causal.parameters()).device
        self.float64 = next(self.causal.parameters()).dtype == torch.float64
        if self.float64 and getattr(self.causal.config, "_experts_implementation", None) == "grouped_mm":
            self.causal.set_experts_implementation("eager")  # grouped products know no float64
        pad = self.tokenizer.pad_token_id if self.tokenizer is not None else None
        self.pad = int(pad or 0)

    @property
    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """What is trained, by name."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def twin(self) -> Policy:
        """A policy on the same weights with gradients of its own, for another thread."""
        memo: dict[int, Any] = {
            id(p): torch.nn.Parameter(p.data, requires_grad=p.requires_grad) for p in self.model.parameters()
        }
        return replace(self, model=deepcopy(self.model, memo))

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        """Compute in the recipe's dtype: meanwhile the modules hold copies in it, through which gradients flow."""
        slots: list[tuple[dict[str, Any], str, Tensor]] = []
        if self.compute == torch.bfloat16:
            copies: dict[int, Tensor] = {}
            for path, module in self.causal.named_modules():
                for name, p in module._parameters.items():
                    if p is not None and not self._stays_float32(f"{path}.{name}"):
                        slots.append((module._parameters, name, p))
                if self.causal.config.model_type in families.CAST_BUFFERS:
                    slots += [
                        (module._buffers, name, x)
                        for name, x in module._buffers.items()
                        if x is not None and x.is_floating_point() and name not in families.EXACT_BUFFERS
                    ]
            for held, name, p in slots:
                if id(p) not in copies:
                    copies[id(p)] = p.to(self.compute)
                held[name] = copies[id(p)]
        try:
            yield
        finally:
            for held, name, p in slots:
                held[name] = p

    def _stays_float32(self, name: str) -> bool:
        """Whether the family computes with this parameter in float32 whatever the dtype (states of Mamba, say)."""
        kept = getattr(self.causal, "_keep_in_fp32_modules_strict", None) or ()
        return any(re.search(rf"(^|\.){re.escape(part)}(\.|$)", name) for part in kept)

    def hidden(
        self, ids_BL: Tensor, positions_BL: Tensor | None = None, mask_BL: Tensor | None = None, cache: Any = None
    ) -> Tensor:
        """Last hidden states, [B, L, D]. Without a mask attention is plainly causal: right padding is harmless."""
        given = {"attention_mask": mask_BL, "position_ids": positions_BL, "past_key_values": cache}
        given = {name: value for name, value in given.items() if value is not None}  # a family may not know some
        with self._adapted():
            out = self.decoder(input_ids=ids_BL, use_cache=cache is not None, **given)
        return out.last_hidden_state

    def continued(self, ids_BL: Tensor, cache: Any, used: int) -> tuple[Tensor, Any]:
        """Last hidden states, [B, L, D], and the library's cache, so far of `used` columns; None begins one."""
        known = inspect.signature(self.decoder.forward).parameters
        name = next(name for name in ("past_key_values", "cache_params") if name in known)
        given: dict[str, Any] = {} if cache is None else {name: cache}
        if "position_ids" in known:  # a cache of states alone may not know how long its rows are
            positions = torch.arange(used, used + ids_BL.shape[1], device=ids_BL.device)
            given["position_ids"] = positions.expand(len(ids_BL), -1)
        with self._adapted():
            out = self.decoder(input_ids=ids_BL, use_cache=True, **given)
        return out.last_hidden_state, getattr(out, name)

    def hidden_at(self, where: Layout) -> Tensor:
        """The hidden states that predict each response token of a micro-batch, [T, D]."""
        forward = self._packed if self.packs else self._padded
        with self.computing():
            hidden_PD = forward(where)
        return hidden_PD.index_select(0, where.predict_T)

    @cached_property
    def ways(self) -> families.Ways:
        """How the model may be computed, by what its configuration says."""
        return families.ways(self.causal.config)

    @cached_property
    def packs(self) -> bool:
        """Whether the learner packs tokens: where the configuration allows it and a trial past the window agrees."""
        if not self.own_attention or not self.ways.packed:
            return False
        known = torch.arange(12, device=self.device) % self.head.weight.shape[0]
        prompt, one, other = (part.tolist() for part in known.split((5, 4, 3)))
        where = layout([Sample(prompt, one, [], 0.0), Sample(prompt, other, [], 0.0)], self.device)
        with torch.no_grad(), families.narrowed(self.causal, 3):
            try:
                return torch.allclose(self._packed(where), self._padded(where), atol=1e-3, rtol=1e-3)
            except Exception:  # a family that takes no such arguments may fail in any way
                return False

    def _packed(self, where: Layout) -> Tensor:
        """Hidden states of packed tokens, [P, D], in one forward."""
        mask = torch.empty(1, 1, 1, 1, device=self.device)  # of four dimensions, so taken as it is: `rows` says it all
        with self._adapted():
            out = self.decoder(
                input_ids=where.ids_P[None],
                position_ids=where.position_P[None],
                attention_mask=mask,
                rows=where.rows,
                use_cache=False,
            )
        return out.last_hidden_state[0]

    def _padded(self, where: Layout) -> Tensor:
        """The same for any family: each block of rows in a forward of its own, prompts computed for each response."""
        blocks = where.ids_P[where.rows.index_N].split([b * n for b, n in where.rows.shapes])
        hidden = [
            self.hidden(ids.view(*shape)).flatten(0, 1) for ids, shape in zip(blocks, where.rows.shapes, strict=True)
        ]
        return torch.cat(hidden).index_select(0, where.rows.place_P)

    def _adapted(self) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext() if self.adapters else self.model.disable_adapter()

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits of hidden states, [..., V], in the dtype of the forward."""
        return finish_logits(self.head(hidden.to(self.head.weight.dtype)), self.scale, self.softcap)

    def logp(self, hidden_TD: Tensor, target_T: Tensor, temperature: float, entropy: bool) -> tuple[Tensor, Tensor]:
        """Log-probs of `target_T` at `temperature`, [T], and the entropies, [T] (zeros unless asked for)."""
        weight, bias = self.head.weight, getattr(self.head, "bias", None)
        spec = (self.scale / temperature, self.softcap, temperature, entropy)
        hidden_TD = hidden_TD if self.float64 else hidden_TD.to(self.compute)
        return TokenLogp.apply(hidden_TD, weight, bias, target_T, *spec)


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
