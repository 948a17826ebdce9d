"""The weights of a policy for another program: whole tensors under the names of a Hugging Face checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import revert_weight_conversion

from sieverl.distributed.fsdp import whole
from sieverl.model.policy import Policy
from sieverl.model.types import as_module, has_adapters

PEFT_PREFIX = "base_model.model."
BASE, A, B = ".base_layer.", ".lora_A.default.weight", ".lora_B.default.weight"


def checkpoint_weights(
    policy: Policy, weights: Mapping[str, Tensor], merge: bool = True
) -> Iterator[tuple[str, Tensor]]:
    """Name and tensor of each of `weights`, as `Policy.weights` gives them, one at a time.

    LoRA adapters are added to the weights that they adapt if `merge`, else left out. Sharded tensors are put together,
    which every rank takes part in.
    """
    named = _merged(policy, weights, merge) if has_adapters(policy.model) else _whole(weights)
    causal = policy.causal
    if getattr(causal, "_weight_conversions", None) or get_model_conversion_mapping(causal, add_legacy=False):
        # some models hold several tensors of their checkpoint in one, such as those of their experts
        return iter(revert_weight_conversion(causal, dict(named)).items())
    return named


def adapter_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The LoRA adapters among the weights, under the names of a PEFT checkpoint."""
    return {
        name.replace(".default.", "."): whole(x).contiguous().cpu() for name, x in weights.items() if ".lora_" in name
    }


def _whole(weights: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    for name, x in weights.items():
        yield name, whole(x)


def _merged(policy: Policy, weights: Mapping[str, Tensor], merge: bool) -> Iterator[tuple[str, Tensor]]:
    for name, x in weights.items():
        if ".lora_" in name:
            continue
        module, adapted, leaf = name.partition(BASE)
        value = whole(x)
        if merge and adapted and leaf == "weight":
            scaling = as_module(policy.model).get_submodule(module).scaling["default"]  # type: ignore[index]
            value = value + scaling * (whole(weights[module + B]) @ whole(weights[module + A]))
        yield (module.removeprefix(PEFT_PREFIX) + (f".{leaf}" if adapted else "")), value
