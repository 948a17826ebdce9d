"""PEFT's LoraConfig as the table [model.lora], and bitsandbytes' 4 bits as model.quantization."""

from __future__ import annotations

import math
from collections.abc import Mapping

from sieverl.errors import nearest
from sieverl.migrate.draft import Draft, short

DROPOUT = "there is no dropout: the policy that learns is the one that sampled"
TARGETS = "without it PEFT chooses by the family (often q_proj and v_proj); the recipe adapts all linear layers"
NEEDS_NOTHING = ("task_type",
    "peft_version", "peft_type", "inference_mode", "base_model_name_or_path", "auto_mapping", "revision",
                 "runtime_config")  # fmt: skip
ELSEWISE: dict[str, tuple[object, ...]] = {  # field of LoraConfig -> the value that means what is done here anyway
    "lora_dropout": (0, 0.0),
    "bias": ("none",),
    "use_dora": (False,),
    "modules_to_save": (None, []),
    "init_lora_weights": (True,),
    "fan_in_fan_out": (False,),
}
WHY = {
    "lora_dropout": DROPOUT,
    "bias": "biases are frozen",
    "use_dora": "DoRA is not built in; the recipe has LoRA",
    "modules_to_save": "only adapters are trained; train all weights with model.lora.rank = 0",
    "init_lora_weights": "B starts at zero, A as PEFT does by default",
}
KNOWN = ("r", "lora_alpha", "target_modules", "use_rslora", *ELSEWISE, *NEEDS_NOTHING)


def adapters(given: Mapping[str, object], draft: Draft) -> None:
    """Put the settings of a LoraConfig into `draft`; ours has a scale of alpha / rank."""
    rank = known(given.get("r", 8), 8, "r", draft, "model.lora.rank")
    alpha = known(given.get("lora_alpha", 8), 8, "lora_alpha", draft, "model.lora.alpha")
    root = bool(given.get("use_rslora"))
    said = f"lora_alpha = {short(alpha)}, r = {short(rank)}"
    draft.set("model.lora.rank", int(rank), f"LoraConfig r = {short(rank)}")
    draft.set("model.lora.alpha", float(alpha) * (math.sqrt(rank) if root else 1), said + (", use_rslora" * root))
    targets = given.get("target_modules")
    if isinstance(targets, list | tuple | set) and all(isinstance(name, str) for name in targets):
        draft.set("model.lora.targets", ",".join(map(str, targets)), "LoraConfig target_modules")
    elif targets in (None, "all-linear"):
        draft.set("model.lora.targets", "all-linear", "" if targets else TARGETS)
    else:
        draft.note("LoraConfig.target_modules", targets, "model.lora.targets is all-linear or names of modules")
    for name, value in given.items():
        if name not in KNOWN:
            draft.note(f"LoraConfig.{name}", value, f"has no counterpart.{nearest(name, KNOWN)}")
        elif name in ELSEWISE and value not in (*ELSEWISE[name], None):
            draft.note(f"LoraConfig.{name}", value, WHY.get(name, "has no counterpart"))


def known(value: object, default: int, name: str, draft: Draft, key: str) -> float:
    """A number of the configuration, or PEFT's default where it cannot be known."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        if value is not None:
            draft.note(f"LoraConfig.{name}", value, f"not a number that can be read here; set {key}")
        return default
    return value


def quantization(given: Mapping[str, object], draft: Draft) -> None:
    """Put a BitsAndBytesConfig into `draft`."""
    for name, value in given.items():
        if name == "load_in_4bit" and value is True:
            draft.set("model.quantization", "nf4", "BitsAndBytesConfig load_in_4bit")
        elif (name, value) != ("bnb_4bit_quant_type", "nf4"):
            draft.note(f"BitsAndBytesConfig.{name}", value, "nf4 with bitsandbytes' defaults is the one quantisation")


def reconcile(draft: Draft) -> None:
    """Take back what does not go together with quantised weights here, and list it."""
    values = draft.values
    if not values.get("model.quantization"):
        return
    if not values.get("model.lora.rank"):
        del values["model.quantization"]
        draft.note(
            "quantization_config", None, "quantised weights are frozen; set model.lora.rank and model.quantization"
        )
        return
    for key, plain in (("rollout.engine", "torch"), ("distributed.strategy", "replicated")):
        if values.get(key, plain) != plain:
            why = f"quantised weights need {plain}, and the recipe has that ({key}); or leave model.quantization out"
            draft.note(key, values[key], why)
            for name in (key, *ALONE[key]):
                values.pop(name, None)


ALONE = {  # keys that belong to a value of another one
    "rollout.engine": ("rollout.servers", "rollout.timeout_s", "rollout.tensor_parallel_size"),
    "distributed.strategy": ("distributed.cpu_offload", "distributed.shard_size"),
}
