"""verl's settings of the run around the objective: engine, sharding, checkpoints, evaluation, schedule, rewards."""

from __future__ import annotations

import math

from sieverl.errors import UsageError
from sieverl.migrate.draft import Draft, short
from sieverl.migrate.rules import Settings
from sieverl.migrate.tracking import trackers
from sieverl.migrate.verl_fields import ACTOR, MODEL, ROLLOUT

ENGINES = {"vllm": "vllm", "hf": "transformers"}


def processes(settings: Settings) -> int:
    """GPUs that the configuration is for."""
    return settings.whole("trainer.n_gpus_per_node") * settings.whole("trainer.nnodes")


def engine(settings: Settings, draft: Draft) -> None:
    """What samples."""
    name = settings[f"{ROLLOUT}.name"]
    if not settings.has(f"{ROLLOUT}.name"):
        return
    found = ENGINES.get(str(name))
    if found is None:
        draft.note(f"{ROLLOUT}.name", name, "rollout.engine is torch, transformers, vllm or vllm_server; it has vllm")
    draft.set("rollout.engine", found or "vllm", settings.said(f"{ROLLOUT}.name"))
    size = settings.whole(f"{ROLLOUT}.tensor_model_parallel_size")
    if found != "transformers" and processes(settings) > 1 and size > 1:
        draft.set("rollout.tensor_parallel_size", size, settings.said(f"{ROLLOUT}.tensor_model_parallel_size"))


def parallel(settings: Settings, draft: Draft) -> None:
    """Sharding, precision and device."""
    ranks = processes(settings)
    strategy = settings[f"{ACTOR}.strategy"]
    if ranks > 1:
        draft.set("distributed.strategy", "fsdp", settings.said("trainer.n_gpus_per_node", "trainer.nnodes"))
        if settings.number(f"{ACTOR}.fsdp_config.fsdp_size") > 0:
            size = settings.whole(f"{ACTOR}.fsdp_config.fsdp_size")
            draft.set("distributed.shard_size", size, settings.said(f"{ACTOR}.fsdp_config.fsdp_size"))
        for name in (f"{ACTOR}.fsdp_config.param_offload", f"{ACTOR}.fsdp_config.optimizer_offload"):
            if settings[name]:
                draft.set("distributed.cpu_offload", True, settings.said(name))
    if strategy not in ("fsdp", "fsdp2"):
        draft.note(f"{ACTOR}.strategy", strategy, "FSDP2 is the one way of sharding")
    full = str(settings[f"{ACTOR}.fsdp_config.dtype"]) in ("float32", "fp32")
    draft.set("dtype", "float32" if full else "bfloat16", settings.said(f"{ACTOR}.fsdp_config.dtype"))
    if settings.has("trainer.device") and settings["trainer.device"] in ("cpu", "cuda"):
        draft.set("model.device", settings["trainer.device"], settings.said("trainer.device"))
    targets = settings[f"{MODEL}.target_modules"]
    if isinstance(targets, list):
        draft.set("model.lora.targets", ",".join(map(str, targets)), f"{MODEL}.target_modules")
    elif settings.has(f"{MODEL}.target_modules"):
        draft.set("model.lora.targets", targets, f"{MODEL}.target_modules")


def saving(settings: Settings, draft: Draft) -> None:
    """Where the run is kept, and when a checkpoint is written."""
    project, experiment = settings["trainer.project_name"], settings["trainer.experiment_name"]
    if settings.has("trainer.default_local_dir"):
        draft.set("run_dir", settings["trainer.default_local_dir"], settings.said("trainer.default_local_dir"))
    elif settings.has("trainer.experiment_name"):
        draft.set("run_dir", f"runs/{project}/{experiment}", settings.said("trainer.experiment_name"))
    trackers(settings, draft, "trainer.logger", "trainer.project_name", "trainer.experiment_name")
    draft.set("checkpoint.every", max(0, settings.whole("trainer.save_freq")), settings.said("trainer.save_freq"))


def evaluation(settings: Settings, draft: Draft) -> None:
    """Held-out evaluation, if there is held-out data."""
    if not draft.values.get("evaluate.source"):
        if settings.number("trainer.test_freq") > 0:
            draft.note("trainer.test_freq", settings["trainer.test_freq"], "set evaluate.source to held-out prompts")
        return
    if settings.number("trainer.test_freq") > 0:
        draft.set("evaluate.every", settings.whole("trainer.test_freq"), settings.said("trainer.test_freq"))
    samples = settings.whole(f"{ROLLOUT}.val_kwargs.n")
    heat = settings[f"{ROLLOUT}.val_kwargs.temperature"] if settings[f"{ROLLOUT}.val_kwargs.do_sample"] else 0
    draft.set("evaluate.temperature", heat, settings.said(f"{ROLLOUT}.val_kwargs.do_sample"))
    draft.set("evaluate.samples", samples if heat else 1, settings.said(f"{ROLLOUT}.val_kwargs.n"))


def learning_rate(settings: Settings, total: int | None, draft: Draft) -> None:
    """Schedule and warm-up."""
    name = "warmup_style" if settings.has(f"{ACTOR}.optim.warmup_style") else "lr_scheduler_type"
    schedule = settings[f"{ACTOR}.optim.{name}"]
    if schedule in ("constant", "cosine"):
        draft.set("train.schedule", schedule, settings.said(f"{ACTOR}.optim.{name}"))
    else:
        draft.note(f"{ACTOR}.optim.{name}", schedule, "train.schedule is constant, linear or cosine")
    steps, share = settings.whole(f"{ACTOR}.optim.lr_warmup_steps"), f"{ACTOR}.optim.lr_warmup_steps_ratio"
    if steps > 0:
        draft.set("train.warmup_updates", steps, settings.said(f"{ACTOR}.optim.lr_warmup_steps"))
    elif settings.number(share) and total:
        draft.set("train.warmup_updates", math.ceil(settings.number(share) * total), settings.said(share))
    elif settings.number(share):
        draft.note(
            share, settings[share], "a share of the optimiser steps, which are not known; set train.warmup_updates"
        )


def rewards(settings: Settings, draft: Draft, adapter: str) -> None:
    """The verifier: verl's rule for the data, or the function of the configuration through an adapter."""
    for table in ("custom_reward_function", "reward.custom_reward_function"):
        if settings.has(f"{table}.path"):
            function = str(settings[f"{table}.name"] or "compute_score")
            if not function.isidentifier():
                raise UsageError(f"{table}.name = {short(function)} is no name of a function")
            draft.set("verify.name", f"{adapter}:{function}", settings.said(f"{table}.path", f"{table}.name"))
            draft.files[adapter] = ADAPTER.format(path=str(settings[f"{table}.path"]), name=function)
            break
    else:
        if "gsm8k" in str(draft.values.get("data.source", "")).lower():
            draft.set("verify.name", "math", "verl's rule for openai/gsm8k: the number after ####")
            draft.set("verify.after", "####")
        else:
            draft.set("verify.name", "math", "verl chooses by data_source; here the last box, or see docs/verifiers.md")
    if settings.has("reward.num_workers"):
        draft.set("verify.workers", settings.whole("reward.num_workers"), settings.said("reward.num_workers"))


ADAPTER = '''"""verl's reward function as a verifier of SieveRL. Made by `sieverl init`."""

from sieverl.userfile import load_file

SCORE = load_file({path!r}).{name}


def {name}(response, row):
    """The score of verl's function, which takes the columns of verl's data."""
    truth = (row.get("reward_model") or {{}}).get("ground_truth", row["answer"])
    score = SCORE(
        data_source=row.get("data_source"), solution_str=response, ground_truth=truth, extra_info=row.get("extra_info")
    )
    return score["score"] if isinstance(score, dict) else score
'''
