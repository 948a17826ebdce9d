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

from sieverl.errors import UsageError
from sieverl.model import attention, families, norm
from sieverl.model.logprobs import TokenLogp, finish_logits
from sieverl.model.packed import Layout, Response, layout


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

    def weights(self) -> dict[str, Tensor]:
        """All parameters by name, as they are now (no copies)."""
        return {name: p.detach() for name, p in self.model.named_parameters()}

    def replica(self) -> Policy:
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
        forward = self._packed if self.can_pack else self._padded
        with self.computing():
            hidden_PD = forward(where)
        return hidden_PD.index_select(0, where.predict_T)

    @cached_property
    def ways(self) -> families.Ways:
        """How the model may be computed, by what its configuration says."""
        return families.ways(self.causal.config)

    @cached_property
    def can_pack(self) -> bool:
        """Whether the learner can pack tokens: where the configuration allows it and a trial past the window agrees."""
        if not self.own_attention or not self.ways.packed:
            return False
        known = torch.arange(12, device=self.device) % self.head.weight.shape[0]
        prompt, one, other = (part.tolist() for part in known.split((5, 4, 3)))
        where = layout([Response(prompt, one), Response(prompt, other)], self.device)
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
