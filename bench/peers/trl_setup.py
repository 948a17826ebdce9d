"""TRL's GRPOTrainer as SieveRL uses GRPO: one optimiser step a batch of rollouts, no KL, and nothing that slows it."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

# vLLM in the trainer's own process; it and the trainer share one GPU
VLLM = {"use_vllm": True, "vllm_mode": "colocate"}
ENGINES: dict[str, dict[str, Any]] = {
    "generate": {},
    "continuous": {"use_transformers_continuous_batching": True},
    "vllm": VLLM,
}
WEIGHTS = {"float32": torch.float32, "bfloat16": torch.float32, "pure-bfloat16": torch.bfloat16}


class TimedTrainer(GRPOTrainer):
    """Remembers how long the last generation took, and its lengths."""

    generate_seconds = 0.0
    lengths: list[int]

    def _generate(self, prompts):
        began = time.perf_counter()
        generated = super()._generate(prompts)
        self.generate_seconds = time.perf_counter() - began
        self.lengths = [len(ids) for ids in generated[1]]
        return generated


def add_options(parser: argparse.ArgumentParser) -> None:
    """The settings to sweep for TRL's best on a machine."""
    parser.add_argument("--model", type=Path, required=True, help="directory in Hugging Face format")
    parser.add_argument("--micro-batch", type=int, default=32, help="responses per forward and backward")
    parser.add_argument("--dtype", choices=WEIGHTS, default="float32", help="bfloat16: autocast over float32 weights")
    parser.add_argument("--engine", choices=ENGINES, default="generate")
    parser.add_argument("--vllm-memory", type=float, default=0.3, help="vllm: its share of the GPU's memory")
    parser.add_argument("--vllm-sleeps", action="store_true", help="vllm: give its memory back during the update")
    parser.add_argument("--lora-rank", type=int, default=0, help="train adapters of this rank; 0: all weights")
    parser.add_argument("--cache", choices=["dynamic", "static"], default="dynamic")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0)


def make_trainer(
    options: argparse.Namespace,
    rows: list[dict[str, str]],
    reward,
    *,
    prompts: int,
    samples: int,
    max_tokens: int,
    callbacks: list[Any],
    **overrides: Any,
) -> TimedTrainer:
    """A trainer over `rows` (`prompt`, `answer`), `prompts` x `samples` responses a step, in the order of the rows.

    `reward(text, answer)` is 0 for a response that was cut off, as in SieveRL. `overrides` go to GRPOConfig.
    """
    torch.set_num_threads(options.threads)
    responses = prompts * samples
    at_once = options.micro_batch * int(os.environ.get("WORLD_SIZE", "1"))
    if responses % at_once:
        raise SystemExit(f"--micro-batch times the processes, {at_once}, must divide the {responses} responses.")
    tokenizer = AutoTokenizer.from_pretrained(options.model, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=WEIGHTS[options.dtype])

    def score(completions, completion_ids, answer, **_):
        rows = zip(completions, completion_ids, answer, strict=True)
        return [reward(text, gold) * (ids[-1] == tokenizer.eos_token_id) for text, ids, gold in rows]

    settings = {
        "output_dir": "/tmp/trl",  # nothing is saved
        "per_device_train_batch_size": options.micro_batch,
        "gradient_accumulation_steps": responses // at_once,  # so one optimiser step a generation
        "num_generations": samples,
        "max_completion_length": max_tokens,
        "loss_type": "grpo",
        "beta": 0.0,
        "scale_rewards": "group",
        "num_iterations": 1,
        "temperature": 1.0,
        "lr_scheduler_type": "constant",
        "bf16": options.dtype == "bfloat16",
        "gradient_checkpointing": False,  # on by default in TRL; it costs a second forward
        "use_cpu": not torch.cuda.is_available(),
        **engine_settings(options, max_tokens),
        "cache_implementation": {"dynamic": None, "static": "static"}[options.cache],
        "shuffle_dataset": False,
        "max_steps": 1_000_000,
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "seed": options.seed,
        **overrides,
    }
    data = Dataset.from_list([{"prompt": row["prompt"], "answer": row["answer"]} for row in rows])
    return TimedTrainer(
        model=model,
        reward_funcs=score,
        args=GRPOConfig(**settings),
        train_dataset=data,
        processing_class=tokenizer,
        callbacks=callbacks,
        peft_config=adapters(options.lora_rank) if options.lora_rank else None,
    )


def engine_settings(options: argparse.Namespace, max_tokens: int) -> dict[str, Any]:
    """The settings of GRPOConfig for the chosen engine."""
    settings = dict(ENGINES[options.engine])
    if settings.get("use_vllm"):
        settings["vllm_gpu_memory_utilization"] = options.vllm_memory
        settings["vllm_enable_sleep_mode"] = options.vllm_sleeps
        settings["vllm_max_model_length"] = max_tokens + 64
    return settings


def adapters(rank: int) -> Any:
    """LoRA on all linear layers, as SieveRL has it in the same comparison."""
    from peft import LoraConfig

    return LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
