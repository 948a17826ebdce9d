"""Which key somebody meant: a typo, the last part of a key alone, or what TRL, verl and transformers call it."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

# name elsewhere -> our key; docs/glossary.md has what they mean
ELSEWHERE = {
    "learning_rate": "train.lr",
    "lr_scheduler_type": "train.schedule",
    "warmup_steps": "train.warmup_updates",
    "weight_decay": "train.weight_decay",
    "adam_beta1": "train.betas",
    "adam_beta2": "train.betas",
    "max_steps": "steps",
    "total_training_steps": "steps",
    "output_dir": "run_dir",
    "model_name_or_path": "model.path",
    "num_generations": "rollout.samples",
    "n_samples_per_prompt": "rollout.samples",
    "max_completion_length": "rollout.max_tokens",
    "max_response_length": "rollout.max_tokens",
    "response_length": "rollout.max_tokens",
    "max_new_tokens": "rollout.max_tokens",
    "train_batch_size": "rollout.prompts",
    "per_device_train_batch_size": "rollout.prompts",
    "ppo_mini_batch_size": "train.minibatches",
    "ppo_epochs": "train.epochs",
    "num_iterations": "train.epochs",
    "save_steps": "checkpoint.every",
    "save_freq": "checkpoint.every",
    "save_total_limit": "checkpoint.keep",
    "eval_steps": "evaluate.every",
    "test_freq": "evaluate.every",
    "beta": "axes.kl_coefficient",
    "kl_coef": "axes.kl_coefficient",
    "kl_loss_coef": "axes.kl_coefficient",
    "dataset_name": "data.source",
    "train_files": "data.source",
    "use_vllm": "rollout.engine",
    "lora_r": "model.lora.rank",
    "lora_alpha": "model.lora.alpha",
    "load_in_4bit": "model.quantization",
    "gradient_checkpointing": "distributed.activation_checkpointing",
    "mask_truncated_completions": "train.mask_truncated",
    "report_to": "trackers.use",
    "logger": "trackers.use",
    "use_wandb": "trackers.use",
    "use_tensorboard": "trackers.use",
    "project_name": "trackers.project",
    "wandb_project": "trackers.project",
    "experiment_name": "trackers.run_name",
    "wandb_run_name": "trackers.run_name",
}
CLOSE = 0.8  # how like a word must be to be taken for a name of elsewhere


def meant(key: str, known: Sequence[str]) -> str:
    """A hint for a key that is not known, or an empty string.

    >>> known = ["train.lr", "train.min_lr_ratio", "rollout.samples"]
    >>> meant("lr", known), meant("train.num_generations", known), meant("xyz", known)
    (' Did you mean train.lr?', ' Did you mean rollout.samples?', '')
    """
    last = key.rpartition(".")[2]
    same = [name for name in known if name.rpartition(".")[2] == last]
    elsewhere = [ELSEWHERE[name] for name in difflib.get_close_matches(last, ELSEWHERE, n=1, cutoff=CLOSE)]
    close = difflib.get_close_matches(key, known, n=1, cutoff=CLOSE)
    like = difflib.get_close_matches(key, known, n=1)
    exact = [ELSEWHERE[last]] if last in ELSEWHERE else []
    found = next((names[0] for names in (exact, same, close, elsewhere, like) if names and names[0] in known), None)
    return f" Did you mean {found}?" if found else ""
