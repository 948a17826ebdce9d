"""The YAML file of `trl grpo --config FILE.yaml`: GRPOConfig, and the model, data and rewards of the command."""

from __future__ import annotations

from collections.abc import Mapping

from sieverl.migrate.draft import Draft
from sieverl.migrate.lora import adapters
from sieverl.migrate.rewards import Part, named, weigh
from sieverl.migrate.rules import Rule, Settings, absent, apply_rules, joint, same
from sieverl.types import JsonObject

ONE = "one source is read; write the mixture to a file first"
LORA = "`use_peft` asks for adapters"
FOUR_BITS = "nf4 with bitsandbytes' defaults is the one quantisation"
COMMAND: dict[str, Rule] = {
    "model_name_or_path": same("model.path", None),
    "model_revision": absent("main", "download that revision to a folder, and set model.path to it", "main"),
    "attn_implementation": same("model.attention", None),
    "dtype": absent(
        "float32", "weights are float32, and the recipe's dtype is that of computation", "float32", "bfloat16", "auto"
    ),
    "torch_dtype": absent(
        None, "weights are float32, and the recipe's dtype is that of computation", "float32", "bfloat16", "auto"
    ),
    "use_peft": joint(False, "model.lora.rank", about="true: LoRA"),
    "lora_r": joint(16, "model.lora.rank", about=LORA),
    "lora_alpha": joint(32, "model.lora.alpha", about=LORA),
    "lora_dropout": joint(0.05, about="no dropout"),
    "lora_target_modules": joint(None, "model.lora.targets", about=LORA),
    "lora_target_parameters": absent(None, "adapters are on modules"),
    "lora_modules_to_save": absent(None, "only adapters are trained"),
    "lora_task_type": absent("CAUSAL_LM", "causal language models", "CAUSAL_LM"),
    "use_rslora": joint(False, "model.lora.alpha", about=LORA),
    "use_dora": absent(False, "DoRA is not built in", False),
    "load_in_4bit": joint(False, "model.quantization", about="nf4"),
    "load_in_8bit": absent(False, FOUR_BITS, False),
    "bnb_4bit_quant_type": absent("nf4", FOUR_BITS, "nf4"),
    "use_bnb_nested_quant": absent(False, FOUR_BITS, False),
    "bnb_4bit_quant_storage": absent(None, FOUR_BITS),
    "dataset_name": joint(None, "data.source", about="with `dataset_config`"),
    "dataset_config": joint(None, "data.source", about="with `dataset_name`"),
    "dataset_train_split": same("data.split", "train"),
    "dataset_test_split": joint("test", "evaluate.split", about="with `eval_strategy`"),
    "dataset_streaming": absent(False, "all prompts are read", False),
    "datasets": joint(None, "data.source", about="one of them"),
    "streaming": absent(False, "all prompts are read", False),
    "test_split_size": absent(None, "write the two parts to files, and set evaluate.source"),
    "reward_funcs": joint(None, "verify.name", about="TRL's own, or dotted paths"),
    "reward_model_name_or_path": absent(None, "a reward model is not built in: write a function that asks it"),
    "config": absent(None, "the file itself"),
    "env": absent(None, "set environment variables in the shell"),
}


def command_to_draft(tree: Mapping[str, object], draft: Draft) -> JsonObject:
    """Put what is not GRPOConfig's into `draft`; the rest is returned."""
    own = {name: value for name, value in tree.items() if name in COMMAND}
    settings = Settings(COMMAND, own, "TRL")
    apply_rules(settings, draft)
    if settings["use_peft"]:
        lora = {"r": settings["lora_r"], "lora_alpha": settings["lora_alpha"], "use_rslora": settings["use_rslora"]}
        lora |= {"lora_dropout": settings["lora_dropout"]} if settings.has("lora_dropout") else {}
        adapters({**lora, "target_modules": settings["lora_target_modules"]}, draft)
    if settings["load_in_4bit"]:
        draft.set("model.quantization", "nf4", "load_in_4bit = true")
    source, config = settings["dataset_name"], settings["dataset_config"]
    mixture = settings["datasets"]
    if isinstance(mixture, list) and mixture and isinstance(mixture[0], Mapping):
        first = mixture[0]
        source, config = first.get("path"), first.get("name")
        for key, value in first.items():
            if key == "split":
                draft.set("data.split", value, "datasets split")
            elif key not in ("path", "name"):
                draft.note(f"datasets.{key}", value, ONE)
        if len(mixture) > 1:
            draft.note("datasets", mixture, ONE)
    if source:
        draft.set("data.source", f"{source}:{config}" if config else source, "dataset_name, dataset_config")
    else:
        draft.note("dataset_name", None, "there is none; set data.source")
    if source and tree.get("eval_strategy") not in (None, "no", False):
        draft.set("evaluate.source", draft.values["data.source"], "eval_strategy")
        draft.set("evaluate.split", settings["dataset_test_split"], settings.said("dataset_test_split"))
    functions = settings["reward_funcs"] or []
    parts: list[Part] = [named(str(one)) for one in (functions if isinstance(functions, list) else [functions])]
    if settings.has("reward_model_name_or_path"):
        parts.insert(0, Part(str(settings["reward_model_name_or_path"]), None, "a reward model is not built in"))
    weigh(parts, draft, tree.get("reward_weights"))
    return {name: value for name, value in tree.items() if name not in COMMAND}
