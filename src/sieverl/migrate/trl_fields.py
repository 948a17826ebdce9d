"""What becomes of each field of TRL 1.16's GRPOConfig, and of those that earlier versions had. One line a field."""

from __future__ import annotations

from sieverl.migrate.rules import Rule, absent, joint, same
from sieverl.migrate.training_arguments import INHERITED

FULL = (
    "training samples from the whole distribution, since log-probs of a cut one do not compare with the learner's; "
    "leave it out (rollout.temperature is the one control)"
)
OWN = "an objective of your own in a file does it (algorithms.md, --algorithm FILE.py:NAME)"
SAPO = f"soft gates are not built in; {OWN}"
VESPO = f"gamma weights are not built in; {OWN}"
ENTROPY = "the bonus has one fixed coefficient, axes.entropy_coefficient"
REFERENCE = "the reference is the initial policy, or with train.reference = 'last' the one before each step"
ROLLOUTS = "every response is kept in rollouts/, and sieverl view shows them; leave it out"
CORRECTION = (
    "the weight is always min(pi_old / pi_engine, 2) for each token (algorithms.md, Old log-probs and other engines)"
)
AGENT = "a response is one turn; tools and environments are not built in"

GRPO: dict[str, Rule] = {
    **INHERITED,
    "learning_rate": same("train.lr", 1e-6),
    "remove_unused_columns": absent(False, "all columns reach the verifier; leave it out", False),
    "model_init_kwargs": joint(None, "model.attention", about="`attn_implementation`; others are listed"),
    "trust_remote_code": absent(False, "code of a model is never run; use a family of docs/models.md", False),
    "router_aux_loss_coef": absent(None, "there is no load-balancing loss; leave it out"),
    "disable_dropout": absent(False, "dropout is always off; leave it out", True),
    "cast_lm_head_to_fp32": absent(False, "the last log-softmax is float32 anyway", False),
    "num_generations": same("rollout.samples", 8),
    "num_generations_eval": joint(None, "evaluate.samples", about="that of training by default"),
    "max_completion_length": same("rollout.max_tokens", 512),
    "ds3_gather_for_generation": absent(True, "weights are always gathered to sample", True),
    "shuffle_dataset": absent(True, "prompts are always shuffled, by the seed", True),
    "pad_to_multiple_of": absent("auto", "responses are packed, nothing is padded; leave it out", "auto"),
    "generation_batch_size": joint(None, "rollout.prompts", about="/ num_generations"),
    "steps_per_generation": joint(
        None,
        "rollout.prompts",
        "train.minibatches",
        about="/ gradient_accumulation_steps is the number of mini-batches",
    ),
    "temperature": same("rollout.temperature", 1.0),
    "top_p": absent(1.0, FULL, 1, 1.0),
    "top_k": absent(0, FULL, 0, -1),
    "min_p": absent(None, FULL, 0, 0.0),
    "generation_kwargs": joint(None, "rollout.stop", about="`stop` and `stop_strings`; others are listed"),
    "chat_template_kwargs": absent(None, "the chat template is rendered without options; put text into data.suffix"),
    "repetition_penalty": absent(1.0, FULL, 1, 1.0),
    "cache_implementation": absent(None, "the engine has a cache of its own; leave it out"),
    "use_vllm": joint(False, "rollout.engine", about="vllm, or vllm_server with `vllm_mode`; else the built-in engine"),
    "vllm_mode": joint("colocate", "rollout.engine", about="colocate: vllm; server: vllm_server"),
    "vllm_model_impl": absent("vllm", "vLLM's own implementation; leave it out", "vllm"),
    "vllm_enable_sleep_mode": absent(False, "vLLM holds rollout.kv_cache_gb and the weights all the time", False),
    "vllm_structured_outputs_regex": absent(None, "constrained output is another distribution; use the verifier regex"),
    "vllm_server_base_url": joint(None, "rollout.servers", about="the address"),
    "vllm_server_host": joint("0.0.0.0", "rollout.servers", about="`http://HOST:PORT`; 0.0.0.0 is 127.0.0.1"),
    "vllm_server_port": joint(8000, "rollout.servers", about="`http://HOST:PORT`"),
    "vllm_server_timeout": joint(
        240.0, "rollout.timeout_s", about="the deadline of every wait, not of the first alone"
    ),
    "vllm_group_port": absent(51216, "weights go through rollout.weights_dir (engines.md)", 51216),
    "vllm_gpu_memory_utilization": absent(0.3, "a share; ours is rollout.kv_cache_gb, in GB (sieverl plan says it)"),
    "vllm_max_model_length": absent(None, "data.max_prompt_tokens and rollout.max_tokens bound it"),
    "vllm_tensor_parallel_size": joint(1, "rollout.tensor_parallel_size", about="the same, with `use_vllm`"),
    "beta": joint(0.0, "axes.kl_coefficient", "axes.kl", about="0: no reference policy"),
    "num_iterations": same("train.epochs", 1),
    "epsilon": joint(0.2, "axes.clip_low", about="and `axes.clip_high`, if `epsilon_high` is not set"),
    "delta": joint(None, "axes.dual_clip", about="the same bound, where it is above 1 + `epsilon_high`"),
    "epsilon_high": joint(None, "axes.clip_high", about="for `cispo` it is the largest weight, which is 5 here"),
    "sapo_temperature_neg": absent(1.05, SAPO, 1.05),
    "sapo_temperature_pos": absent(1.0, SAPO, 1, 1.0),
    "vespo_k_pos": absent(2.0, VESPO, 2, 2.0),
    "vespo_lambda_pos": absent(3.0, VESPO, 3, 3.0),
    "vespo_k_neg": absent(3.0, VESPO, 3, 3.0),
    "vespo_lambda_neg": absent(2.0, VESPO, 2, 2.0),
    "importance_sampling_level": joint("token", "algorithm", about="sequence: `gspo`, with TRL's clip"),
    "reward_weights": joint(None, "verify.parts", about="`weight` of each part of the verifier `sum`"),
    "multi_objective_aggregation": absent(
        "sum_then_normalize", "rewards are summed first, then normalised (verifiers.md)", "sum_then_normalize"
    ),
    "scale_rewards": joint("group", "algorithm", about="group: `grpo`; none: `dr_grpo`; batch is listed"),
    "loss_type": joint("dapo", "algorithm", "axes.aggregate", about="see the table of losses below"),
    "mask_truncated_completions": joint(
        False,
        "train.mask_truncated",
        "axes.denominator",
        about="with a token mean, their tokens are not counted either",
    ),
    "sync_ref_model": absent(False, REFERENCE, False),
    "ref_model_mixup_alpha": absent(0.6, REFERENCE, 0.6),
    "ref_model_sync_steps": absent(512, REFERENCE, 512),
    "top_entropy_quantile": absent(1.0, f"all tokens are trained on; {OWN}", 1, 1.0),
    "entropy_coef": joint(0.0, "axes.entropy_coefficient", about="averaged as the objective is"),
    "use_adaptive_entropy": absent(False, ENTROPY, False),
    "entropy_coef_min": absent(0.0, ENTROPY, 0, 0.0),
    "entropy_coef_max": absent(1.0, ENTROPY, 1, 1.0),
    "entropy_coef_delta": absent(0.005, ENTROPY, 0.005),
    "entropy_target": absent(0.2, ENTROPY, 0.2),
    "max_tool_calling_iterations": absent(None, AGENT),
    "vllm_importance_sampling_correction": absent(True, CORRECTION, True),
    "vllm_importance_sampling_mode": absent("sequence_mask", CORRECTION, "token_truncate"),
    "vllm_importance_sampling_clip_max": absent(3.0, CORRECTION, 2, 2.0),
    "vllm_importance_sampling_clip_min": absent(None, CORRECTION),
    "off_policy_mask_threshold": absent(None, f"no response is masked by its KL; {OWN}"),
    "use_bias_correction_kl": joint(True, "axes.kl", about="true: `k2`, with the same on-policy gradient; false: `k3`"),
    "log_completions": absent(False, ROLLOUTS, False),
    "log_multimodal": absent(True, "models of text alone; leave it out", True),
    "num_completions_to_print": absent(None, ROLLOUTS),
    "log_unique_prompts": absent(False, ROLLOUTS, False),
    "log_completions_hub_repo": absent(None, ROLLOUTS),
    "use_transformers_continuous_batching": joint(False, "rollout.engine", about="transformers"),
    "transformers_continuous_batching_config": absent(None, "rollout.max_num_seqs is the one size of it"),
    "use_transformers_paged": joint(False, "rollout.engine", about="transformers"),
    "vllm_importance_sampling_cap": absent(None, CORRECTION, 2, 2.0),
}

# fields that are gone from TRL 1.16, and that scripts still have
EARLIER: dict[str, Rule] = {
    "max_prompt_length": same(
        "data.max_prompt_tokens", None, "longer prompts were cut; here they stop the run or drop"
    ),
    "warmup_ratio": joint(None, "train.warmup_updates", about="a share of the optimiser steps"),
    "evaluation_strategy": joint(None, "evaluate.every", about="now `eval_strategy`"),
    "logging_dir": absent(None, "metrics.jsonl is in the run directory"),
    "overwrite_output_dir": absent(None, "sieverl train --resume never starts anew", False),
    "use_liger_loss": absent(None, "log-probs are computed in chunks without such kernels; leave it out", False),
    "no_cuda": absent(None, "set model.device = 'cpu'", False),
    "group_by_length": absent(None, "micro-batches are packed by tokens; leave it out", False, True),
    "vllm_device": absent(None, "vLLM shares the GPU of its rank, or is a server of its own (engines.md)", "auto"),
    "vllm_dtype": absent(None, "vLLM computes in dtype", "auto"),
    "vllm_max_model_len": absent(None, "data.max_prompt_tokens and rollout.max_tokens bound it"),
    "vllm_guided_decoding_regex": absent(None, "constrained output is another distribution; use the verifier regex"),
}
FIELDS = {**GRPO, **EARLIER}
