"""What is known of a family of models, from its configuration alone: which fast ways are right for it, and why not.

A short trial cannot see what depends on length (windows, scaled positions), so that a fast way is taken only where the
configuration says that it is right. `tests/test_families.py` holds each line of this file against the plain model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from sieverl.errors import DataError


def kinds(names: str) -> frozenset[str]:
    """Model types, as their configurations name them."""
    return frozenset(names.split())


Decoding = Literal["fused", "rows", "library", "recompute"]
# The decoder layer is Llama's and nothing else, so that a decoding step can be written out (rollout/step.py).
FUSED = kinds("granite llama mistral qwen2 qwen3 seed_oss")
# Attention alone mixes tokens, and a window is given to the attention function: the learner may pack tokens.
PACKED = FUSED | kinds(
    """afmoe apertus arcee biogpt cohere cohere2 cwm deepseek_v2 deepseek_v3 diffllama dots1 ernie4_5 ernie4_5_moe
    exaone4 flex_olmo gemma gemma3_text glm glm4 glm4_moe glm4_moe_lite gpt2 gpt_bigcode gpt_neox granitemoe
    granitemoeshared helium hunyuan_v1_dense hunyuan_v1_moe hyperclovax jais2 minicpm3 minimax_m2 ministral ministral3
    mixtral nanochat olmo olmo2 olmo3 olmoe opt persimmon phi phi3 phimoe qwen2_moe qwen3_moe smollm3 solar_open
    starcoder2 youtu"""
)
# All memory is keys and values, and left padding is harmless: prompts of any length are decoded together.
ROWS = PACKED | kinds("bloom codegen falcon gemma2 gpt_neo gpt_oss gptj mpt nemotron stablelm vaultgemma xglm")
# The window stands in the mask alone, which packed tokens do not have.
MASKED_WINDOW = frozenset({"qwen2_moe", "phimoe"})
# Memory whose rows cannot be taken apart, or whose steps differ from the whole row (transformers 5.19).
TIME_STEP_MIN = kinds("nemotron_h zamba2")  # whose modules make their bound of it
RECOMPUTED = kinds("minimax openai-gpt recurrent_gemma")
REFUSED = {
    "rwkv": "transformers' own backward of it fails (a state is changed in place)",
    "xlstm": "transformers keeps its state in a form whose rows cannot be taken apart",
}
# Constants (positions, decays, masks) are in the dtype of the weights in these families, but for frequencies.
CAST_BUFFERS = kinds("minimax openai-gpt xglm")
EXACT_BUFFERS = kinds("inv_freq original_inv_freq")
ATTENTION = {"full_attention", "sliding_attention"}


@dataclass(frozen=True)
class Ways:
    """How a model is computed: `packed` tokens in the learner or padded rows, and the way of decoding; and why."""

    packed: bool
    decoding: Decoding
    why: str = ""

    def __str__(self) -> str:
        learner = "packed tokens" if self.packed else "padded rows"
        return f"learner: {learner}; decoding: {DECODING[self.decoding]}" + (f" ({self.why})" if self.why else "")


DECODING: dict[Decoding, str] = {
    "fused": "the step written out",
    "rows": "the model's own step, rows of any length together",
    "library": "the model's own step and cache, prompts of one length at a time",
    "recompute": "every token computed anew at each step, for want of a cache: slow",
}


def ways(config: Any) -> Ways:
    """The fastest ways that a configuration allows, and why there is no faster one.

    >>> from transformers import MistralConfig, Qwen2Config
    >>> print(ways(Qwen2Config()))
    learner: packed tokens; decoding: the step written out
    >>> ways(MistralConfig(sliding_window=4096)).why
    'no step is written out for mistral with a sliding window'
    """
    kind = config.model_type
    layers = set(getattr(config, "layer_types", None) or ())
    window = "sliding_attention" in layers if layers else bool(getattr(config, "sliding_window", None))
    if kind in RECOMPUTED:
        return Ways(False, "recompute", f"the cache of {kind} cannot be used row by row")
    if bound := _time_step(config):
        return Ways(False, "recompute", f"a cached step of {kind} leaves out its bound {bound}")
    if kind not in ROWS:
        return Ways(False, "library", f"nothing faster is known to be right for {kind}")
    if layers - ATTENTION:
        return Ways(False, "library", f"nothing faster is known to be right for {sorted(layers - ATTENTION)[0]}")
    packed = kind in PACKED and not (window and kind in MASKED_WINDOW)
    unusual = "a sliding window" if window else _unusual(config)
    if kind in FUSED and not unusual:
        return Ways(packed, "fused")
    return Ways(packed, "rows", f"no step is written out for {kind}" + (f" with {unusual}" if kind in FUSED else ""))


def own_attention(config: Any) -> bool:
    """Whether SieveRL's attention may stand in for the library's scaled-dot-product attention."""
    return ways(config).decoding in ("fused", "rows")


def _time_step(config: Any) -> str:
    """The bound on the time step of a Mamba 2 layer that transformers 5.19 forgets when it decodes; empty for none."""
    limit = getattr(config, "time_step_limit", None)
    if config.model_type in TIME_STEP_MIN:
        limit = (config.time_step_min, math.inf)
    return f"time_step_limit = {tuple(limit)}" if limit and tuple(limit) != (0.0, math.inf) else ""


def _unusual(config: Any) -> str:
    """What a Llama-like configuration asks for that the written-out step lacks; empty for nothing."""
    for key in ("embedding_multiplier", "residual_multiplier", "partial_rotary_factor"):
        value = getattr(config, key, None) or rope(config).get(key) or 1.0
        if value != 1.0:
            return f"{key} = {value}"
    return ""


def rope(config: Any) -> Mapping[str, Any]:
    """The parameters of rotary positions; empty where there are none."""
    found = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    return found if isinstance(found, Mapping) else {}


def longest(config: Any) -> tuple[int | None, str]:
    """How many tokens a row may have (None: any number) and what sets the limit."""
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
                "rows computed together, and what was decoded before no longer fits"
            )
    for key in ("keep_window_size", "index_topk"):
        if (keys := getattr(config, key, None)) and (limit is None or keys < limit):
            return int(keys), f"{key}: beyond it the keys that a token attends to depend on what is computed beside it"
    return (int(limit), "max_position_embeddings") if limit else (None, "")


@contextmanager
def narrowed(model: Any, window: int) -> Iterator[None]:
    """Meanwhile every sliding window of the model has `window` columns, so that a short trial goes past it."""
    holders = [model.config, *model.modules()]
    before = [(x, wide) for x in holders if isinstance(wide := getattr(x, "sliding_window", None), int) and wide]
    for holder, _ in before:
        holder.sliding_window = window
    try:
        yield
    finally:
        for holder, wide in before:
            holder.sliding_window = wide


def logit_scale(config: Any) -> float:
    """The constant factor of a family between output layer and logits."""
    config = config.get_text_config()
    scale = float(getattr(config, "logit_scale", None) or 1.0) * float(getattr(config, "lm_head_multiplier", 1.0))
    scaling = float(getattr(config, "logits_scaling", None) or 1.0)
    return scale * scaling if config.model_type == "hyperclovax" else scale / scaling


def softcap(config: Any) -> float | None:
    """The soft cap of a family's logits, or None."""
    config = config.get_text_config()
    names = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
    return next((value for name in names if (value := getattr(config, name, None))), None)


def check(config: Any, where: str) -> None:
    """Raises a DataError for a family that is known not to work."""
    if why := REFUSED.get(config.model_type):
        raise DataError(f"{where}: {config.model_type} is not supported: {why}")
