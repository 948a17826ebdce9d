"""What becomes of each setting of verl 0.9.1's PPO trainer; `a.b.*` is all that is in the table a.b and not listed."""

from __future__ import annotations

from sieverl.migrate.rules import Rule, absent, joint, same

ACTOR, ROLLOUT, MODEL = "actor_rollout_ref.actor", "actor_rollout_ref.rollout", "actor_rollout_ref.model"
OWN = "an objective or advantage of your own in a file does it (algorithms.md, --algorithm FILE.py:NAME)"
FULL = (
    "training samples from the whole distribution, since log-probs of a cut one do not compare with the learner's; "
    "leave it out (rollout.temperature is the one control)"
)
MICRO = "micro-batches are cut by tokens: train.micro_batch_tokens bounds the memory"
SHARD = "FSDP2 with decoder blocks as units and float32 at rest; distributed.* has its options (machines.md)"
VLLM = "vLLM's own default (engines.md); leave it out"
PROFILE = "time/ is in every row of metrics.jsonl; leave it out"
PACKED = "responses are always packed without padding; leave it out"
CRITIC = "the critic of ppo has settings of its own (algorithms.md); leave it out"
REFERENCE = "the reference is computed as the policy is; leave it out"
AGENT = "a response is one turn; tools, agents and environments are not built in"
DATA = "text alone is read; leave it out"
SAVED = "a checkpoint has weights and training state; checkpoint.* says when"
REWARD = "rewards come from a verifier (verify.name); a reward model is a function of yours that asks it"
RAY = "a run is one process, torchrun or --launcher ray (machines.md); leave it out"
NONE = "has no counterpart"

POLICY: dict[str, Rule] = {
    f"{ACTOR}.*": absent(None, NONE),
    f"{ACTOR}.optim.lr": same("train.lr", 1e-6),
    f"{ACTOR}.optim.weight_decay": same("train.weight_decay", 0.01),
    f"{ACTOR}.optim.betas": same(
        "train.betas", [0.9, 0.999], convert=lambda v: v if isinstance(v, list) else [0.9, 0.999]
    ),
    f"{ACTOR}.optim.lr_warmup_steps": joint(-1, "train.warmup_updates", about="above 0; else the share below"),
    f"{ACTOR}.optim.lr_warmup_steps_ratio": joint(0.0, "train.warmup_updates", about="a share of the optimiser steps"),
    f"{ACTOR}.optim.lr_scheduler_type": joint("constant", "train.schedule", about="constant and cosine"),
    f"{ACTOR}.optim.warmup_style": joint(None, "train.schedule", about="the older name of `lr_scheduler_type`"),
    f"{ACTOR}.optim.min_lr_ratio": same("train.min_lr_ratio", 0.0),
    f"{ACTOR}.optim.total_training_steps": absent(-1, "that of the run", -1),
    f"{ACTOR}.optim.*": absent(None, "AdamW is the one optimiser", "AdamW", "torch.optim"),
    f"{ACTOR}.grad_clip": same("train.max_grad_norm", 1.0),
    f"{ACTOR}.optim.clip_grad": absent(1.0, "actor.grad_clip is in force", 1, 1.0),
    f"{ACTOR}.strategy": joint(
        "fsdp", "distributed.strategy", about="fsdp with several GPUs; one has nothing to shard"
    ),
    f"{ACTOR}.fsdp_config.fsdp_size": joint(-1, "distributed.shard_size", about="the same; -1 is all ranks"),
    f"{ACTOR}.fsdp_config.param_offload": joint(False, "distributed.cpu_offload", about="either of the two"),
    f"{ACTOR}.fsdp_config.optimizer_offload": joint(False, "distributed.cpu_offload", about="either of the two"),
    f"{ACTOR}.fsdp_config.dtype": joint("bfloat16", "dtype", about="bfloat16 or float32"),
    f"{ACTOR}.fsdp_config.*": absent(None, SHARD),
    f"{ACTOR}.megatron.*": absent(None, "there is no Megatron; FSDP2 shards"),
    f"{ACTOR}.ppo_mini_batch_size": joint(
        256, "train.minibatches", about="train_batch_size / this; both count prompts"
    ),
    f"{ACTOR}.ppo_micro_batch_size": absent(None, MICRO),
    f"{ACTOR}.ppo_micro_batch_size_per_gpu": absent(None, MICRO),
    f"{ACTOR}.use_dynamic_bsz": absent(False, MICRO, True),
    f"{ACTOR}.ppo_max_token_len_per_gpu": same("train.micro_batch_tokens", 16384),
    f"{ACTOR}.ppo_epochs": same("train.epochs", 1),
    f"{ACTOR}.shuffle": absent(False, "mini-batches are cut by prompt order", False),
    f"{ACTOR}.data_loader_seed": absent(42, "mini-batches are cut by prompt order", 42),
    f"{ACTOR}.clip_ratio": joint(0.2, "axes.clip_low", "axes.clip_high", about="where the next two are not set"),
    f"{ACTOR}.clip_ratio_low": joint(0.2, "axes.clip_low", about="the same"),
    f"{ACTOR}.clip_ratio_high": joint(0.2, "axes.clip_high", about="the same"),
    f"{ACTOR}.clip_ratio_c": joint(3.0, "axes.dual_clip", about="the same"),
    f"{ACTOR}.loss_agg_mode": joint("token-mean", "axes.aggregate", about="see the table below"),
    f"{ACTOR}.loss_scale_factor": absent(None, "constant_length divides by rollout.max_tokens"),
    f"{ACTOR}.policy_loss.loss_mode": joint("vanilla", "algorithm", about="vanilla, gspo and cispo; others are listed"),
    f"{ACTOR}.policy_loss.*": absent(None, f"an option of another loss; {OWN}"),
    f"{ACTOR}.tau_pos": absent(1.0, f"soft gates are not built in; {OWN}", 1, 1.0),
    f"{ACTOR}.tau_neg": absent(1.05, f"soft gates are not built in; {OWN}", 1.05),
    f"{ACTOR}.entropy_coeff": joint(0, "axes.entropy_coefficient", about="the same"),
    f"{ACTOR}.use_kl_loss": joint(False, "axes.kl_coefficient", about="true: `kl_loss_coef`"),
    f"{ACTOR}.kl_loss_coef": joint(0.001, "axes.kl_coefficient", about="with `use_kl_loss`"),
    f"{ACTOR}.kl_loss_type": joint("low_var_kl", "axes.kl", "axes.kl_limit", about="k2 and k3, clamped at 10 as there"),
    f"{ACTOR}.rollout_n": absent(None, "that of the rollout"),
    f"{ACTOR}.use_torch_compile": absent(True, "nothing is compiled; leave it out", True, False),
    f"{ACTOR}.use_remove_padding": absent(None, PACKED, True),
    f"{ACTOR}.use_fused_kernels": absent(None, "log-probs are computed in chunks; leave it out", False),
    f"{ACTOR}.ulysses_sequence_parallel_size": absent(1, "a response is computed by one rank", 1),
    f"{ACTOR}.checkpoint.*": absent(None, SAVED),
    f"{ACTOR}.profiler.*": absent(None, PROFILE),
    f"{ACTOR}.qat.*": absent(None, "weights are trained in float32, or 4 bits under LoRA (model.quantization)"),
    "actor_rollout_ref.ref.*": absent(None, REFERENCE),
    f"{MODEL}.path": joint("~/models/deepseek-llm-7b-chat", "model.path", about="the same, if given"),
    f"{MODEL}.lora_rank": same("model.lora.rank", 0),
    f"{MODEL}.lora_alpha": same("model.lora.alpha", 16, convert=lambda value: float(str(value))),
    f"{MODEL}.target_modules": joint("all-linear", "model.lora.targets", about="the same; a list is joined by commas"),
    f"{MODEL}.enable_gradient_checkpointing": same("distributed.activation_checkpointing", True),
    f"{MODEL}.use_remove_padding": absent(True, PACKED, True),
    f"{MODEL}.trust_remote_code": absent(False, "code of a model is never run; use a family of models.md", False),
    f"{MODEL}.use_shm": absent(False, "weights are read where they are; leave it out", False),
    f"{MODEL}.*": absent(None, NONE, False),
    f"{ROLLOUT}.n": same("rollout.samples", 1),
    f"{ROLLOUT}.temperature": same("rollout.temperature", 1.0),
    f"{ROLLOUT}.top_p": absent(1, FULL, 1, 1.0),
    f"{ROLLOUT}.top_k": absent(-1, FULL, -1, 0),
    f"{ROLLOUT}.do_sample": absent(True, FULL, True),
    f"{ROLLOUT}.name": joint("???", "rollout.engine", about="vllm; hf is transformers; sglang and others are listed"),
    f"{ROLLOUT}.prompt_length": absent(None, "that of the data"),
    f"{ROLLOUT}.response_length": absent(None, "that of the data"),
    f"{ROLLOUT}.dtype": absent("bfloat16", "the engine computes in dtype", "bfloat16"),
    f"{ROLLOUT}.gpu_memory_utilization": absent(
        0.5, "a share; ours is rollout.kv_cache_gb, in GB (sieverl plan says it)"
    ),
    f"{ROLLOUT}.tensor_model_parallel_size": joint(
        2, "rollout.tensor_parallel_size", about="with vllm and several GPUs"
    ),
    f"{ROLLOUT}.max_num_seqs": same("rollout.max_num_seqs", 256),
    f"{ROLLOUT}.log_prob_micro_batch_size": absent(None, MICRO),
    f"{ROLLOUT}.log_prob_micro_batch_size_per_gpu": absent(None, MICRO),
    f"{ROLLOUT}.log_prob_use_dynamic_bsz": absent(None, MICRO),
    f"{ROLLOUT}.log_prob_max_token_len_per_gpu": absent(None, MICRO),
    f"{ROLLOUT}.mode": absent(
        "async", "the engine runs in the ranks; rollout.staleness samples ahead", "sync", "async"
    ),
    f"{ROLLOUT}.val_kwargs.temperature": joint(0, "evaluate.temperature", about="0 is greedy, with one response"),
    f"{ROLLOUT}.val_kwargs.n": joint(1, "evaluate.samples", about="the same"),
    f"{ROLLOUT}.val_kwargs.do_sample": joint(False, "evaluate.temperature", about="false: 0"),
    f"{ROLLOUT}.val_kwargs.*": absent(None, "evaluation samples from the whole distribution", -1, 1, 1.0),
    f"{ROLLOUT}.multi_turn.*": absent(None, AGENT, False),
    f"{ROLLOUT}.agent.*": absent(None, AGENT),
    f"{ROLLOUT}.profiler.*": absent(None, PROFILE),
    f"{ROLLOUT}.*": absent(None, VLLM),
    "actor_rollout_ref.*": absent(None, RAY, True),
}
OTHERS: dict[str, Rule] = {
    "data.train_files": joint(
        "~/data/rlhf/gsm8k/train.parquet", "data.source", about="one file or directory, if given"
    ),
    "data.val_files": joint(
        "~/data/rlhf/gsm8k/test.parquet", "evaluate.source", about="one file or directory, if given"
    ),
    "data.train_max_samples": joint(-1, "data.limit", about="above 0"),
    "data.val_max_samples": joint(-1, "evaluate.limit", about="above 0"),
    "data.prompt_key": joint("prompt", "data.columns", about="`prompt = ...` where it is another"),
    "data.train_batch_size": same("rollout.prompts", 1024, "prompts, as there"),
    "data.gen_batch_size": absent(None, "new prompts are sampled by rounds of rollout.prompts"),
    "data.val_batch_size": absent(None, "evaluation is in the engine's batches; leave it out"),
    "data.max_prompt_length": same("data.max_prompt_tokens", 512),
    "data.max_response_length": same("rollout.max_tokens", 512),
    "data.filter_overlong_prompts": joint(False, "data.overlong", about="true: drop"),
    "data.filter_overlong_prompts_workers": absent(1, "lengths are counted at once; leave it out", 1),
    "data.truncation": absent("error", "a prompt is never cut; data.overlong = 'drop' leaves long ones out", "error"),
    "data.shuffle": absent(True, "prompts are always shuffled, by the seed", True),
    "data.seed": same("seed", None),
    "data.reward_fn_key": absent(
        "data_source", "verify.name decides; all columns reach a function of yours", "data_source"
    ),
    "data.return_raw_chat": absent(True, "a chat in the data is rendered with the model's template", True, False),
    "data.*": absent(None, DATA, False),
    "algorithm.adv_estimator": joint("gae", "algorithm", about="see the table below"),
    "algorithm.norm_adv_by_std_in_grpo": joint(True, "algorithm", about="false: `dr_grpo`"),
    "algorithm.gamma": absent(1.0, f"1 in ppo here; {OWN}", 1, 1.0),
    "algorithm.lam": absent(1.0, f"1 in ppo here; {OWN}", 1, 1.0),
    "algorithm.use_kl_in_reward": joint(
        False, "axes.kl_in_reward", about="true: `kl_ctrl.kl_coef`, for ppo and reinforce_pp"
    ),
    "algorithm.kl_ctrl.kl_coef": joint(0.001, "axes.kl_in_reward", about="with `use_kl_in_reward`"),
    "algorithm.kl_ctrl.*": absent(None, "the coefficient is fixed", "fixed"),
    "algorithm.kl_penalty": absent("kl", "k1 in the reward", "kl", "k1"),
    "algorithm.filter_groups.enable": joint(
        False, "algorithm", about="true, with grpo: `dapo`, which samples other prompts"
    ),
    "algorithm.filter_groups.*": absent(None, "dapo samples in up to 3 rounds, by whether responses are correct"),
    "algorithm.rollout_correction.*": absent(
        None, "the weight is always min(pi_old / pi_engine, 2) for each token (algorithms.md)", False
    ),
    "algorithm.*": absent(None, f"has no counterpart; {OWN}", False),
    "trainer.total_epochs": joint(30, "steps", about="x rows / `rollout.prompts`, where the rows can be counted"),
    "trainer.total_training_steps": joint(None, "steps", about="the same"),
    "trainer.n_gpus_per_node": joint(8, "distributed.strategy", about="processes of torchrun"),
    "trainer.nnodes": joint(1, "distributed.strategy", about="x GPUs are the processes of torchrun"),
    "trainer.project_name": joint("verl_examples", "run_dir", "trackers.project", about="runs/PROJECT/EXPERIMENT"),
    "trainer.experiment_name": joint("gsm8k", "run_dir", "trackers.run_name", about="runs/PROJECT/EXPERIMENT"),
    "trainer.default_local_dir": joint(None, "run_dir", about="the same"),
    "trainer.save_freq": joint(-1, "checkpoint.every", about="-1: only at the end"),
    "trainer.test_freq": joint(-1, "evaluate.every", about="with `data.val_files`"),
    "trainer.max_actor_ckpt_to_keep": same(
        "checkpoint.keep", None, "without it verl keeps all, and ours the newest two"
    ),
    "trainer.logger": joint(
        ["console", "wandb"], "trackers.use", about="tensorboard, wandb, trackio, mlflow; others are listed"
    ),
    "trainer.val_before_train": absent(True, "it is always evaluated before the first step", True),
    "trainer.val_only": absent(False, "sieverl eval evaluates a model", False),
    "trainer.resume_mode": absent("auto", "sieverl train --resume auto, never or must", "auto"),
    "trainer.critic_warmup": absent(0, CRITIC, 0),
    "trainer.balance_batch": absent(True, "work is balanced by tokens; leave it out", True),
    "trainer.device": joint("cuda", "model.device", about="cuda and cpu"),
    "trainer.*": absent(None, RAY),
    "custom_reward_function.path": joint(None, "verify.name", about="an adapter beside the recipe calls it"),
    "custom_reward_function.name": joint(None, "verify.name", about="`compute_score` by default"),
    "reward.custom_reward_function.path": joint(None, "verify.name", about="an adapter beside the recipe calls it"),
    "reward.custom_reward_function.name": joint("compute_score", "verify.name", about="in that file"),
    "reward.num_workers": joint(8, "verify.workers", about="the same, if given"),
    "reward_model.enable": absent(None, REWARD, False),
    "reward_model.*": absent(None, REWARD),
    "reward.reward_manager.name": absent("naive", REWARD, "naive"),
    "reward.*": absent(None, REWARD, False),
    "sandbox_fusion.*": absent(None, "a function of yours asks the sandbox (verify.network, verify.environment)"),
    "critic.*": absent(None, CRITIC),
    "distillation.*": absent(None, "there is no distillation", False),
    "transfer_queue.*": absent(None, RAY, False),
    "global_profiler.*": absent(None, PROFILE),
    "skip.*": absent(None, RAY, False),
    "ray_kwargs.*": absent(None, RAY),
}
# settings that are gone from verl 0.9.1, and that scripts still have
EARLIER: dict[str, Rule] = {
    "ray_init.*": absent(None, RAY),
    "hydra.*": absent(None, "there is one recipe file; leave it out"),
    "defaults": absent(None, "other files of a Hydra configuration are not read; give the resolved one, or a script"),
    "actor_rollout_ref.hybrid_engine": absent(True, RAY, True),
}
FIELDS = {**POLICY, **OTHERS, **EARLIER}
