"""The fields of GRPOConfig around the objective: engine, sampling, precision, sharding, checkpoints, evaluation."""

from __future__ import annotations

from collections.abc import Mapping

from sieverl.migrate.draft import Draft, Source
from sieverl.migrate.rules import Settings


def engine(settings: Settings, draft: Draft) -> None:
    """What samples."""
    batching = next((n for n in ("use_transformers_continuous_batching", "use_transformers_paged") if settings[n]), "")
    if batching:
        draft.set("rollout.engine", "transformers", settings.said(batching))
    if not settings["use_vllm"]:
        return
    if settings["vllm_mode"] != "server":
        draft.set("rollout.engine", "vllm", settings.said("use_vllm", "vllm_mode"))
        if settings["vllm_tensor_parallel_size"] != 1:
            size = settings.whole("vllm_tensor_parallel_size")
            draft.set("rollout.tensor_parallel_size", size, settings.said("vllm_tensor_parallel_size"))
        return
    host = "127.0.0.1" if settings["vllm_server_host"] == "0.0.0.0" else settings["vllm_server_host"]
    url = settings["vllm_server_base_url"] or f"http://{host}:{settings['vllm_server_port']}"
    draft.set("rollout.engine", "vllm_server", settings.said("use_vllm", "vllm_mode"))
    draft.set("rollout.servers", [url])
    draft.set("rollout.timeout_s", float(settings.number("vllm_server_timeout")), settings.said("vllm_server_timeout"))
    draft.note("vllm_mode", "server", "a plain `vllm serve`, started as docs/engines.md says; set rollout.weights_dir")


def sampling(settings: Settings, draft: Draft) -> None:
    """Stop strings, and what else TRL passes on to generation or to the model."""
    for name, known in (
        ("generation_kwargs", {"stop": "rollout.stop", "stop_strings": "rollout.stop"}),
        ("model_init_kwargs", {"attn_implementation": "model.attention"}),
    ):
        more = settings[name]
        for key, value in more.items() if isinstance(more, Mapping) else ():
            if key in known and not isinstance(value, Source):
                several = known[key] == "rollout.stop" and isinstance(value, str)
                draft.set(known[key], [value] if several else value, f"{name} {key}")
            elif key not in ("dtype", "torch_dtype", "device_map"):
                draft.note(
                    f"{name}.{key}", value, "has no counterpart; what a model and its sampling need is set above"
                )


def precision(settings: Settings, draft: Draft) -> None:
    """The dtype of computation, and the device."""
    half = settings["fp16"]
    if half:
        draft.note("fp16", True, "there is no float16; the recipe computes in bfloat16")
    if half or settings["bf16"] in (None, True):
        draft.set("dtype", "bfloat16", "weights stay float32; " + settings.said("fp16" if half else "bf16"))
    if settings["use_cpu"]:
        draft.set("model.device", "cpu", settings.said("use_cpu"))


def parallel(settings: Settings, draft: Draft) -> None:
    """Sharding."""
    for name in ("fsdp", "deepspeed"):
        value = settings[name]
        if not value:
            continue
        draft.set("distributed.strategy", "fsdp", settings.said(name))
        if "offload" in str(value):
            draft.set("distributed.cpu_offload", True, settings.said(name))
        if name == "deepspeed":
            draft.note(name, value, "there is no DeepSpeed; the recipe shards with FSDP2")


def saving(settings: Settings, updates: int, total: int | None, draft: Draft) -> None:
    """When a checkpoint is written, in our steps."""
    strategy = str(settings["save_strategy"])
    if strategy == "no":
        draft.set("checkpoint.every", 0, settings.said("save_strategy"))
    elif strategy != "steps":
        draft.note("save_strategy", strategy, "set checkpoint.every (steps) and checkpoint.keep_best")
    elif "save_steps" in settings.given:
        asked = settings.number("save_steps")
        asked = asked * total if asked < 1 and total else asked
        draft.set("checkpoint.every", max(1, round(asked / updates)), settings.said("save_steps"))


def evaluation(settings: Settings, updates: int, draft: Draft) -> None:
    """Held-out evaluation, if there is held-out data."""
    strategy = settings["eval_strategy"]
    if "evaluation_strategy" in settings.given:
        strategy = settings["evaluation_strategy"]
    if strategy in ("no", None, False):
        return
    if not draft.values.get("evaluate.source"):
        draft.note("eval_strategy", strategy, "set evaluate.source to held-out prompts, and evaluate.every")
        return
    if strategy == "steps":
        asked = settings.number("eval_steps") if settings["eval_steps"] is not None else 10.0  # logging_steps
        draft.set("evaluate.every", max(1, round(asked / updates)), settings.said("eval_steps"))
    name = "num_generations_eval" if settings["num_generations_eval"] else "num_generations"
    draft.set("evaluate.samples", settings.whole(name), settings.said(name))
