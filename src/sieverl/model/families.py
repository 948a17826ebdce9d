"""What is known of a family of models from its configuration alone: which fast ways are correct for it, and why not.

A short trial does not see what depends on length (windows, scaled positions), so a fast way is used only where the
configuration says that it is correct. `tests/model/test_families.py` compares each line of this file with the plain
model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from sieverl.errors import DataError
from sieverl.model.types import CausalModel, ModelConfig


def model_types(names: str) -> frozenset[str]:
    """Model types, by the `model_type` of their configurations."""
    return frozenset(names.split())


Decoding = Literal["fused", "batched", "transformers_cache", "recompute"]
# The decoder layer is exactly Llama's: a fused decode step exists (engines/decode_step.py).
FUSED = model_types("granite llama mistral qwen2 qwen3 seed_oss")
# Only attention mixes tokens, and a window is passed to the attention function: the learner may pack tokens.
PACKED = FUSED | model_types(
    """afmoe apertus arcee biogpt cohere cohere2 cwm deepseek_v2 deepseek_v3 diffllama dots1 ernie4_5 ernie4_5_moe
    exaone4 flex_olmo gemma gemma3_text glm glm4 glm4_moe glm4_moe_lite gpt2 gpt_bigcode gpt_neox granitemoe
    granitemoeshared helium hunyuan_v1_dense hunyuan_v1_moe hyperclovax jais2 minicpm3 minimax_m2 ministral ministral3
    mixtral nanochat olmo olmo2 olmo3 olmoe opt persimmon phi phi3 phimoe qwen2_moe qwen3_moe smollm3 solar_open
    starcoder2 youtu"""
)
# The cache holds keys and values only, and left padding is harmless: prompts of any length are decoded together.
BATCHED = PACKED | model_types("bloom codegen falcon gemma2 gpt_neo gpt_oss gptj mpt nemotron stablelm vaultgemma xglm")
# The window is only in the mask, which packed tokens do not have.
MASKED_WINDOW = frozenset({"qwen2_moe", "phimoe"})
# Their modules derive the bound on the time step from `time_step_min`.
TIME_STEP_MIN = model_types("nemotron_h zamba2")
# The cache cannot be split by sequence, or its steps differ from the whole sequence (transformers 5.19).
RECOMPUTE = model_types("minimax openai-gpt recurrent_gemma")
REFUSED = {
    "rwkv": "its backward in transformers fails (a state is modified in place)",
    "xlstm": "its state in transformers cannot be split by sequence",
}
# Constants (positions, decays, masks) have the dtype of the weights in these families, except frequencies.
CAST_BUFFERS = model_types("minimax openai-gpt xglm")
EXACT_BUFFERS = frozenset({"inv_freq", "original_inv_freq"})
ATTENTION = {"full_attention", "sliding_attention"}


@dataclass(frozen=True)
class Ways:
    """How a model is computed: `packed` tokens or padded sequences in the learner, the way of decoding, and why."""

    packed: bool
    decoding: Decoding
    why: str = ""

    def __str__(self) -> str:
        learner = "packed tokens" if self.packed else "padded sequences"
        return f"learner: {learner}; decoding: {DECODING[self.decoding]}" + (f" ({self.why})" if self.why else "")


DECODING: dict[Decoding, str] = {
    "fused": "fused decode step",
    "batched": "the model's own forward, prompts of any length in one batch",
    "transformers_cache": "the model's own forward and cache, one prompt length at a time",
    "recompute": "no usable cache: all tokens are recomputed at each step, which is slow",
}


def ways(config: ModelConfig) -> Ways:
    """The fastest ways that a configuration allows, and why there are no faster ones.

    >>> from transformers import MistralConfig, Qwen2Config
    >>> print(ways(Qwen2Config()))
    learner: packed tokens; decoding: fused decode step
    >>> ways(MistralConfig(sliding_window=4096)).why
    'no fused decode step for mistral with a sliding window'
    """
    name = config.model_type
    layers = set(getattr(config, "layer_types", None) or ())
    window = "sliding_attention" in layers if layers else bool(getattr(config, "sliding_window", None))
    if name in RECOMPUTE:
        return Ways(False, "recompute", f"the cache of {name} cannot be split by sequence")
    if bound := _time_step(config):
        return Ways(False, "recompute", f"a cached step of {name} ignores its bound {bound}")
    if name not in BATCHED:
        return Ways(False, "transformers_cache", f"no faster way is known to be correct for {name}")
    if layers - ATTENTION:
        other = sorted(layers - ATTENTION)[0]
        return Ways(False, "transformers_cache", f"no faster way is known to be correct for {other}")
    packed = name in PACKED and not (window and name in MASKED_WINDOW)
    unusual = "a sliding window" if window else _unusual(config)
    if name in FUSED and not unusual:
        return Ways(packed, "fused")
    return Ways(packed, "batched", f"no fused decode step for {name}" + (f" with {unusual}" if name in FUSED else ""))


def own_attention(config: ModelConfig) -> bool:
    """Whether SieveRL's attention may replace transformers' scaled-dot-product attention."""
    return ways(config).decoding in ("fused", "batched")


def _time_step(config: ModelConfig) -> str:
    """The bound on the time step of a Mamba 2 layer that transformers 5.19 ignores when decoding; empty for none."""
    limit = getattr(config, "time_step_limit", None)
    if config.model_type in TIME_STEP_MIN and hasattr(config, "time_step_min"):
        limit = (config.time_step_min, math.inf)
    return f"time_step_limit = {tuple(limit)}" if limit and tuple(limit) != (0.0, math.inf) else ""


def _unusual(config: ModelConfig) -> str:
    """What a Llama-like configuration asks for that the fused decode step lacks; empty for nothing."""
    for key in ("embedding_multiplier", "residual_multiplier", "partial_rotary_factor"):
        value = getattr(config, key, None) or rope(config).get(key) or 1.0
        if value != 1.0:
            return f"{key} = {value}"
    return ""


def rope(config: ModelConfig) -> Mapping[str, Any]:
    """The parameters of rotary positions; empty where there are none."""
    found = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    return found if isinstance(found, Mapping) else {}


def longest(config: ModelConfig) -> tuple[int | None, str]:
    """How many tokens a sequence may have (None: no limit) and what sets the limit."""
    config = config.get_text_config()
    limit = getattr(config, "max_position_embeddings", None)
    own = rope(config)
    tables = [own, *(table for table in own.values() if isinstance(table, Mapping))]
    if any(table.get("rope_type", table.get("type")) == "longrope" for table in tables):
        short = getattr(config, "original_max_position_embeddings", None)
        short = short or next((t[k] for t in tables if (k := "original_max_position_embeddings") in t), limit)
        if short and (limit is None or short < limit):
            return int(short), (
                "longrope: the length of its short rotary factors; beyond it transformers changes the positions of all "
                "sequences of a batch, and keys that were cached before no longer fit"
            )
    for key in ("keep_window_size", "index_topk"):
        if (keys := getattr(config, key, None)) and (limit is None or keys < limit):
            return int(keys), f"{key}: beyond it the keys that a token attends to depend on the rest of the batch"
    return (int(limit), "max_position_embeddings") if limit else (None, "")


@contextmanager
def narrowed(model: CausalModel, window: int) -> Iterator[None]:
    """Meanwhile every sliding window of the model has `window` positions, so that a short trial exceeds it."""
    holders: list[Any] = [model.config, *model.modules()]
    before = [(x, wide) for x in holders if isinstance(wide := getattr(x, "sliding_window", None), int) and wide]
    for holder, _ in before:
        holder.sliding_window = window
    try:
        yield
    finally:
        for holder, wide in before:
            holder.sliding_window = wide


def logit_scale(config: ModelConfig) -> float:
    """The constant factor of the model between output layer and logits."""
    config = config.get_text_config()
    scale = float(getattr(config, "logit_scale", None) or 1.0) * float(getattr(config, "lm_head_multiplier", 1.0))
    scaling = float(getattr(config, "logits_scaling", None) or 1.0)
    return scale * scaling if config.model_type == "hyperclovax" else scale / scaling


def softcap(config: ModelConfig) -> float | None:
    """The soft cap of the model's logits, or None."""
    config = config.get_text_config()
    names = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
    return next((value for name in names if (value := getattr(config, name, None))), None)


def check(config: ModelConfig, path: str) -> None:
    """Raise a DataError for a model type that is known not to work."""
    if why := REFUSED.get(config.model_type):
        raise DataError(f"{path}: {config.model_type} is not supported: {why}")
