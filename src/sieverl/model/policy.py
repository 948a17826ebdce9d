"""The policy: a Hugging Face causal LM, its tokenizer, and log-probs that never hold [tokens, vocabulary] at once.

Legend: B sequences, L positions, D hidden size, P packed tokens, T response tokens, V vocabulary.
"""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from sieverl.distributed import fsdp
from sieverl.errors import UsageError
from sieverl.model import attention, families, norm
from sieverl.model.blocks import block_names, recompute
from sieverl.model.logprobs import TokenLogp, finish_logits
from sieverl.model.packed import Layout, Response, layout
from sieverl.model.types import CausalModel, as_module, has_adapters

Result = TypeVar("Result")


@dataclass
class Policy:
    """A causal LM, its tokenizer, and how it is computed.

    Parameters are float32 (or float64); `compute` is the dtype of the forward. `causal` is the model without PEFT
    around it, `decoder` the part up to the last hidden states, `head` the output layer. Raises a UsageError for LoRA
    adapters on the output layer.
    """

    model: CausalModel
    tokenizer: Any  # a Tokenizer; None where nothing is encoded or decoded
    compute: torch.dtype = torch.float32
    adapters: bool = True  # False: the base model without its LoRA adapters, which is their reference policy
    sharded: bool = False  # each rank holds a part of the weights (FSDP2)
    activation_checkpointing: bool = False  # the backward computes each decoder block a second time

    def __post_init__(self) -> None:
        self.causal = self.model.get_base_model() if has_adapters(self.model) else self.model
        self.own_attention = attention.use(self.causal)
        norm.use(self.causal)
        if self.activation_checkpointing and not self.sharded:
            recompute(self.causal, self.in_compute_dtype)
        base = self.causal.base_model
        # Llama 4 has another base_model_prefix than its decoder's name
        self.decoder = base if base is not self.causal else base.get_submodule("model")
        self.head = self.causal.get_output_embeddings()
        if hasattr(self.head, "base_layer"):
            raise UsageError(
                "the LoRA adapters are on the output layer, and log-probs are computed from its weights without them; "
                "leave it out of model.lora.targets (all-linear does)"
            )
        self.scale, self.softcap = families.logit_scale(self.causal.config), families.softcap(self.causal.config)
        self.device = next(self.causal.parameters()).device
        self.float64 = next(self.causal.parameters()).dtype == torch.float64
        if self.float64 and getattr(self.causal.config, "_experts_implementation", None) == "grouped_mm":
            self.causal.set_experts_implementation("eager")  # grouped matrix multiplications do not support float64
        pad = self.tokenizer.pad_token_id if self.tokenizer is not None else None
        self.pad = int(pad or 0)

    @property
    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """The trained parameters, by name."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def weights(self) -> dict[str, Tensor]:
        """All parameters by name, as they are now (no copies)."""
        return {name: p.detach() for name, p in self.model.named_parameters()}

    def shard(self, sharding: fsdp.Sharding) -> None:
        """Keep a part of the weights on each of the ranks from now on; every rank must call this."""
        kept = getattr(self.causal, "_keep_in_fp32_modules_strict", None)
        if kept and self.compute == torch.bfloat16:
            raise UsageError(
                f"{type(self.causal).__name__} computes {', '.join(kept)} in float32, which is not supported with "
                "distributed.strategy = 'fsdp' and dtype = 'bfloat16'; use dtype = 'float32'"
            )
        names, embedding = block_names(self.causal), self.causal.get_input_embeddings()
        parts = [m for m in as_module(self.causal).modules() if type(m).__name__ in names]
        if embedding.weight is not self.head.weight:  # tied ones are one weight, which is gathered all the while
            parts += [embedding, self.head]
        fsdp.shard(as_module(self.causal), parts, sharding, self.compute == torch.bfloat16)
        self.sharded = True

    def with_weights(self, function: Callable[[], Result]) -> Result:
        """The tensors that `function` computes with this policy; a sharded one gathers its weights for it."""
        return fsdp.call_with_weights(as_module(self.causal), function)

    @contextlib.contextmanager
    def gathered(self) -> Iterator[None]:
        """All weights on every rank meanwhile, to sample or to measure without gradients."""
        with fsdp.gathered(as_module(self.causal)) if self.sharded else contextlib.nullcontext():
            yield

    def replica(self) -> Policy:
        """A policy on the same weights with its own gradients, for another thread."""
        memo: dict[int, object] = {
            id(p): torch.nn.Parameter(p.data, requires_grad=p.requires_grad) if p.is_floating_point() else p
            for p in self.model.parameters()  # packed weights of 4 bits are frozen, and shared as they are
        }
        return replace(self, model=deepcopy(self.model, memo))

    @contextlib.contextmanager
    def in_compute_dtype(self, part: str = "") -> Iterator[None]:
        """Meanwhile modules hold copies of their weights in `compute`, through which gradients reach the weights.

        `part` is the path of the only module whose weights are needed; empty: all of them.
        """
        slots: list[tuple[dict[str, Any], str, Tensor]] = []  # a module's table of tensors, a name in it, the tensor
        if self.compute == torch.bfloat16 and not self.sharded:  # sharded weights are gathered in it
            copies: dict[int, Tensor] = {}
            for path, module in as_module(self.causal).get_submodule(part).named_modules(prefix=part):
                for name, p in module._parameters.items():
                    if p is not None and p.is_floating_point() and not self._stays_float32(f"{path}.{name}"):
                        slots.append((module._parameters, name, p))
                if self.causal.config.model_type in families.CAST_BUFFERS:
                    slots += [
                        (module._buffers, name, x)
                        for name, x in module._buffers.items()
                        if x is not None and x.is_floating_point() and name not in families.EXACT_BUFFERS
                    ]
            for table, name, exact in slots:
                if id(exact) not in copies:
                    copies[id(exact)] = exact.to(self.compute)
                table[name] = copies[id(exact)]
        try:
            yield
        finally:
            for table, name, exact in slots:
                table[name] = exact

    def _stays_float32(self, name: str) -> bool:
        """Whether the model always computes with this parameter in float32 (as states of Mamba do)."""
        kept = getattr(self.causal, "_keep_in_fp32_modules_strict", None) or ()
        return any(re.search(rf"(^|\.){re.escape(part)}(\.|$)", name) for part in kept)

    def hidden(
        self,
        ids_BL: Tensor,
        positions_BL: Tensor | None = None,
        mask_BL: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Last hidden states, [B, L, D]. Without a mask attention is just causal: right padding is harmless."""
        given = {"attention_mask": mask_BL, "position_ids": positions_BL, "past_key_values": cache}
        given = {name: value for name, value in given.items() if value is not None}  # some models lack some arguments
        with self._adapters_as_chosen():
            out = self.decoder(input_ids=ids_BL, use_cache=cache is not None, **given)
        return out.last_hidden_state

    def hidden_with_own_cache(self, ids_BL: Tensor, cache: Cache | None, used: int) -> tuple[Tensor, Cache]:
        """Last hidden states, [B, L, D], and the model's own cache, which had `used` positions; None begins one."""
        accepted = inspect.signature(self.decoder.forward).parameters
        name = next(name for name in ("past_key_values", "cache_params") if name in accepted)
        given: dict[str, object] = {} if cache is None else {name: cache}
        if "position_ids" in accepted:  # a cache of states alone may not know the length of its sequences
            positions = torch.arange(used, used + ids_BL.shape[1], device=ids_BL.device)
            given["position_ids"] = positions.expand(len(ids_BL), -1)
        with self._adapters_as_chosen():
            out = self.decoder(input_ids=ids_BL, use_cache=True, **given)
        return out.last_hidden_state, getattr(out, name)

    def response_hidden(self, packed: Layout) -> Tensor:
        """The hidden states that predict each response token of a micro-batch, [T, D]."""
        forward = self._packed if self.can_pack else self._padded
        with self.in_compute_dtype():
            hidden_PD = forward(packed)
        return hidden_PD.index_select(0, packed.predict_T)

    @cached_property
    def ways(self) -> families.Ways:
        """How the model may be computed according to its configuration."""
        return families.ways(self.causal.config)

    @cached_property
    def can_pack(self) -> bool:
        """Whether the learner can pack tokens: the configuration allows it, and a trial beyond the window agrees."""
        if not self.own_attention or not self.ways.packed:
            return False
        ids = torch.arange(12, device=self.device) % self.head.weight.shape[0]
        prompt, one, other = (part.tolist() for part in ids.split((5, 4, 3)))
        packed = layout([Response(prompt, one), Response(prompt, other)], self.device)
        with torch.no_grad(), families.narrowed(self.causal, 3):
            try:
                return torch.allclose(self._packed(packed), self._padded(packed), atol=1e-3, rtol=1e-3)
            except Exception:  # a model that does not take these arguments may fail in any way
                return False

    def _packed(self, packed: Layout) -> Tensor:
        """Hidden states of packed tokens, [P, D], in one forward."""
        # transformers passes a mask of four dimensions on as it is; our attention reads the blocks only
        mask = torch.empty(1, 1, 1, 1, device=self.device)
        with self._adapters_as_chosen():
            out = self.decoder(
                input_ids=packed.ids_P[None],
                position_ids=packed.position_P[None],
                attention_mask=mask,
                attention_blocks=packed.blocks,
                use_cache=False,
            )
        return out.last_hidden_state[0]

    def _padded(self, packed: Layout) -> Tensor:
        """The same for any model: one forward for each block of sequences, prompts computed for each response."""
        blocks = packed.blocks
        ids = packed.ids_P[blocks.token_N].split([b * n for b, n in blocks.shapes])
        hidden = [self.hidden(x.view(*shape)).flatten(0, 1) for x, shape in zip(ids, blocks.shapes, strict=True)]
        return torch.cat(hidden).index_select(0, blocks.position_P)

    def _adapters_as_chosen(self) -> contextlib.AbstractContextManager[None]:
        """Adapters are off meanwhile unless `adapters`."""
        if self.adapters:
            return contextlib.nullcontext()
        assert has_adapters(self.model)
        return self.model.disable_adapter()

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits of hidden states, [..., V], in the dtype of the forward."""
        return finish_logits(self.head(hidden.to(self.head.weight.dtype)), self.scale, self.softcap)

    def log_probs(self, hidden_TD: Tensor) -> Tensor:
        """Log-probs of the whole vocabulary at temperature 1, [T, V], in float32 (float64 for float64 weights)."""
        with self.in_compute_dtype():
            logits_TV = self.logits(hidden_TD)
        return (logits_TV if self.float64 else logits_TV.float()).log_softmax(-1)

    def logp(self, hidden_TD: Tensor, target_T: Tensor, temperature: float, entropy: bool) -> tuple[Tensor, Tensor]:
        """Log-probs of `target_T` at `temperature`, [T], in nats, and the entropies, [T] (zeros without `entropy`)."""
        spec = (self.scale / temperature, self.softcap, temperature, entropy)
        hidden_TD = hidden_TD if self.float64 else hidden_TD.to(self.compute)

        def compute() -> tuple[Tensor, Tensor]:
            return TokenLogp.apply(hidden_TD, self.head.weight, getattr(self.head, "bias", None), target_T, *spec)

        return fsdp.call_with_weights(self.head, compute)
