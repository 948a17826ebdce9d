"""Small random models of the causal LMs that people fine-tune, with windows, scaled positions and unusual sizes."""

from __future__ import annotations

from typing import Any

SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
MOE = {
    "moe_intermediate_size": 16,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
    "n_routed_experts": 4,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
}
MLA = {
    "kv_lora_rank": 8,
    "q_lora_rank": 12,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 6,
    "head_dim": 4,
}
LINEAR = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_conv_kernel_dim": 4,
    "layer_types": ["linear_attention", "full_attention"],
    "head_dim": 8,
}
MAMBA2 = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_expand": 2, "mamba_n_groups": 1}
WINDOW = {"sliding_window": 16}
MIXED = {**WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 10000.0}

# name -> (model type, what differs from SIZES)
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama-3 rope": (
        "llama",
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 16,
                "rope_theta": 10000.0,
            }
        },
    ),
    "llama yarn": ("llama", {"rope_parameters": YARN}),
    "llama biases": ("llama", {"attention_bias": True, "mlp_bias": True, "head_dim": 12}),
    "llama linear rope": ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}}),
    "llama tied": ("llama", {"tie_word_embeddings": True}),
    "llama4_text": (
        "llama4_text",
        {
            **MOE,
            "intermediate_size_mlp": 48,
            "head_dim": 8,
            "attention_chunk_size": 8,
            "num_hidden_layers": 4,
            "no_rope_layers": [1, 1, 1, 0],
            "interleave_moe_layer_step": 2,
            "floor_scale": 8,
            "pad_token_id": 0,
        },
    ),
    "qwen2": ("qwen2", {}),
    "qwen2 window": ("qwen2", {**WINDOW, "use_sliding_window": True, "max_window_layers": 1}),
    "qwen2 yarn": ("qwen2", {"rope_parameters": YARN}),
    "qwen3": ("qwen3", {"head_dim": 8}),
    "qwen3 window": ("qwen3", {"head_dim": 8, **WINDOW, "use_sliding_window": True, "max_window_layers": 1}),
    "qwen2_moe": ("qwen2_moe", {**MOE, "shared_expert_intermediate_size": 16, "decoder_sparse_step": 1}),
    "qwen2_moe window": (
        "qwen2_moe",
        {**MOE, "shared_expert_intermediate_size": 16, **WINDOW, "use_sliding_window": True, "max_window_layers": 1},
    ),
    "qwen3_moe": ("qwen3_moe", {**MOE, "head_dim": 8}),
    "qwen3_moe window": ("qwen3_moe", {**MOE, "head_dim": 8, **WINDOW, "use_sliding_window": True}),
    "qwen3_next": ("qwen3_next", {**LINEAR, **MOE, "shared_expert_intermediate_size": 16}),
    "qwen3_5": ("qwen3_5_text", {**LINEAR}),
    "qwen3_5_moe": ("qwen3_5_moe_text", {**LINEAR, **MOE, "shared_expert_intermediate_size": 16}),
    "mistral": ("mistral", {"sliding_window": None}),
    "mistral window": ("mistral", WINDOW),
    "ministral": ("ministral", {**MIXED, "head_dim": 8}),
    "ministral3": (
        "ministral3",
        {
            "head_dim": 8,
            "rope_parameters": {**YARN, "llama_4_scaling_beta": 0.1, "mscale": 1.0, "mscale_all_dim": 1.0},
        },
    ),
    "mixtral": ("mixtral", {"num_local_experts": 4}),
    "mixtral window": ("mixtral", {"num_local_experts": 4, **WINDOW}),
    "gemma": ("gemma", {"head_dim": 8}),
    "gemma2": ("gemma2", {"head_dim": 8, **MIXED, "query_pre_attn_scalar": 8, "attn_logit_softcapping": 2.0}),
    "gemma3": ("gemma3_text", {"head_dim": 8, **MIXED, "query_pre_attn_scalar": 8}),
    "gemma3n": (
        "gemma3n_text",
        {
            "head_dim": 8,
            **WINDOW,
            "num_hidden_layers": 4,
            "intermediate_size": 48,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "num_kv_shared_layers": 0,
            "vocab_size_per_layer_input": 97,
            "hidden_size_per_layer_input": 8,
            "altup_num_inputs": 2,
            "laurel_rank": 4,
            "activation_sparsity_pattern": [0.0] * 4,
        },
    ),
    "gemma4": (
        "gemma4_text",
        {
            "head_dim": 8,
            "global_head_dim": 8,
            **MIXED,
            "vocab_size_per_layer_input": 97,
            "hidden_size_per_layer_input": 8,
            "num_kv_shared_layers": 0,
        },
    ),
    "vaultgemma": ("vaultgemma", {"head_dim": 8, **MIXED, "query_pre_attn_scalar": 8}),
    "recurrent_gemma": (
        "recurrent_gemma",
        {"lru_width": 32, "attention_window_size": 6, "block_types": ["recurrent", "attention"], "conv1d_width": 4},
    ),
    "phi": ("phi", {"num_key_value_heads": 4}),
    "phi3": ("phi3", {}),
    "phi3 window": ("phi3", WINDOW),
    "phi3 longrope": (
        "phi3",
        {
            "original_max_position_embeddings": 128,
            "rope_parameters": {
                "rope_type": "longrope",
                "short_factor": [1.0, 1.1, 1.2, 1.3],
                "long_factor": [2.0, 3.0, 4.0, 5.0],
                "original_max_position_embeddings": 128,
                "rope_theta": 10000.0,
            },
        },
    ),
    "phimoe": ("phimoe", {"num_local_experts": 4}),
    "phimoe window": ("phimoe", {"num_local_experts": 4, **WINDOW}),
    "deepseek_v2": ("deepseek_v2", {**MOE, **MLA, "num_key_value_heads": 4}),
    "deepseek_v3": ("deepseek_v3", {**MOE, **MLA, "num_key_value_heads": 4}),
    "deepseek_v32": (
        "deepseek_v32",
        {**MOE, **MLA, "num_key_value_heads": 4, "index_topk": 64, "index_n_heads": 2, "index_head_dim": 8},
    ),
    "glm": ("glm", {"head_dim": 8}),
    "glm4": ("glm4", {"head_dim": 8}),
    "glm4_moe": ("glm4_moe", {**MOE, "head_dim": 8}),
    "glm4_moe_lite": ("glm4_moe_lite", {**MOE, **MLA, "num_key_value_heads": 4}),
    "glm_moe_dsa": (
        "glm_moe_dsa",
        {**MOE, **MLA, "num_key_value_heads": 4, "index_topk": 64, "index_n_heads": 2, "index_head_dim": 8},
    ),
    "gpt_oss": ("gpt_oss", {**MIXED, "num_local_experts": 4, "head_dim": 8}),
    "gpt2": ("gpt2", {}),
    "gpt_bigcode": ("gpt_bigcode", {}),
    "gpt_neo": ("gpt_neo", {"num_layers": 2, "attention_types": [[["global", "local"], 1]], "window_size": 6}),
    "gpt_neox": ("gpt_neox", {}),
    "gptj": ("gptj", {"rotary_dim": 4}),
    "codegen": ("codegen", {"rotary_dim": 4}),
    "opt": ("opt", {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    "xglm": ("xglm", {"ffn_dim": 48, "d_model": 32, "num_layers": 2, "attention_heads": 4}),
    "biogpt": ("biogpt", {}),
    "bloom": ("bloom", {}),
    "falcon": ("falcon", {}),
    "falcon alibi": ("falcon", {"alibi": True, "new_decoder_architecture": False}),
    "mpt": ("mpt", {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 256}),
    "persimmon": ("persimmon", {"num_key_value_heads": 4}),
    "stablelm": ("stablelm", {}),
    "starcoder2": ("starcoder2", WINDOW),
    "olmo": ("olmo", {}),
    "olmo2": ("olmo2", {}),
    "olmo3": ("olmo3", MIXED),
    "olmoe": ("olmoe", {"num_experts": 4, "num_experts_per_tok": 2}),
    "flex_olmo": ("flex_olmo", {"num_experts": 4, "num_experts_per_tok": 2}),
    "olmo_hybrid": (
        "olmo_hybrid",
        {
            **{k: v for k, v in LINEAR.items() if k != "head_dim"},
            "linear_num_key_heads": 4,
            "layer_types": ["linear_attention", "full_attention"],
        },
    ),
    "granite": ("granite", {"logits_scaling": 4.0}),
    "granite multipliers": (
        "granite",
        {
            "logits_scaling": 4.0,
            "residual_multiplier": 0.5,
            "embedding_multiplier": 3.0,
            "attention_multiplier": 0.2,
        },
    ),
    "granitemoe": ("granitemoe", {"num_local_experts": 4}),
    "granitemoeshared": ("granitemoeshared", {"num_local_experts": 4, "shared_intermediate_size": 16}),
    "granitemoehybrid": (
        "granitemoehybrid",
        {
            **MAMBA2,
            "num_local_experts": 4,
            "shared_intermediate_size": 16,
            "layer_types": ["mamba", "attention"],
            "position_embedding_type": "rope",
        },
    ),
    "cohere": ("cohere", {"logit_scale": 0.25}),
    "cohere2": ("cohere2", {**MIXED, "logit_scale": 0.25}),
    "nemotron": ("nemotron", {}),
    "nemotron_h": (
        "nemotron_h",
        {
            "layers_block_type": ["mamba", "attention", "mlp", "mamba"],
            "num_hidden_layers": 4,
            "head_dim": 8,
            "mamba_num_heads": 8,
            "mamba_head_dim": 8,
            "ssm_state_size": 8,
            "n_groups": 1,
        },
    ),
    "smollm3": ("smollm3", {"no_rope_layers": [1, 0]}),
    "seed_oss": ("seed_oss", {"head_dim": 8}),
    "exaone4": ("exaone4", {**MIXED, "sliding_window_pattern": 2}),
    "ernie4_5": ("ernie4_5", {"head_dim": 8}),
    "ernie4_5_moe": (
        "ernie4_5_moe",
        {"moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 16, "moe_num_shared_experts": 1},
    ),
    "hunyuan_v1_dense": ("hunyuan_v1_dense", {"head_dim": 8}),
    "hunyuan_v1_moe": ("hunyuan_v1_moe", {"head_dim": 8, "num_experts": 4, "moe_topk": 2}),
    "apertus": ("apertus", {}),
    "arcee": ("arcee", {}),
    "helium": ("helium", {"head_dim": 8}),
    "minicpm3": ("minicpm3", {**MLA, "num_key_value_heads": 4, "scale_emb": 2, "dim_model_base": 16}),
    "minimax": (
        "minimax",
        {"num_local_experts": 4, "head_dim": 8, "layer_types": ["linear_attention", "full_attention"], "block_size": 8},
    ),
    "minimax_m2": (
        "minimax_m2",
        {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8, "rotary_dim": 4},
    ),
    "dots1": ("dots1", {**MOE, **MIXED}),
    "diffllama": ("diffllama", {}),
    "doge": ("doge", {"keep_window_size": 64}),
    "nanochat": ("nanochat", {}),
    "afmoe": ("afmoe", {**MOE, **MIXED, "num_shared_experts": 1, "head_dim": 8, "num_dense_layers": 1}),
    "kimi_linear": (
        "kimi_linear",
        {
            **MOE,
            **MLA,
            "num_key_value_heads": 4,
            "layer_types": ["linear_attention", "full_attention"],
            "linear_attn_config": {
                "kda_layers": [1],
                "full_attn_layers": [2],
                "num_heads": 4,
                "head_dim": 8,
                "short_conv_kernel_size": 4,
            },
        },
    ),
    "lfm2": ("lfm2", {"layer_types": ["conv", "full_attention"], "conv_L_cache": 3, "block_auto_adjust_ff_dim": False}),
    "lfm2_moe": (
        "lfm2_moe",
        {
            "layer_types": ["conv", "full_attention"],
            "conv_L_cache": 3,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
            "num_dense_layers": 1,
        },
    ),
    "falcon_h1": (
        "falcon_h1",
        {**MAMBA2, "mamba_d_ssm": 64, "lm_head_multiplier": 0.5, "key_multiplier": 0.7, "head_dim": 8},
    ),
    "mamba": ("mamba", {"state_size": 8}),
    "falcon_mamba": ("falcon_mamba", {"state_size": 8}),
    "mamba2": ("mamba2", {"num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 1, "chunk_size": 16}),
    "jamba": (
        "jamba",
        {
            "num_experts": 4,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "mamba_d_state": 8,
            "use_mamba_kernels": False,
        },
    ),
    "bamba": ("bamba", {**MAMBA2, "attn_layer_indices": [1]}),
    "zamba": (
        "zamba",
        {
            "num_hidden_layers": 4,
            "layer_types": ["mamba", "hybrid", "mamba", "hybrid"],
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "mamba_d_state": 8,
            "n_mamba_heads": 2,
            "num_key_value_heads": 4,
            "use_mamba_kernels": False,
        },
    ),
    "zamba2": (
        "zamba2",
        {
            "num_hidden_layers": 3,
            "layer_types": ["mamba", "hybrid", "mamba"],
            "mamba_d_state": 8,
            "n_mamba_heads": 8,
            "mamba_ngroups": 1,
            "num_key_value_heads": 4,
            "use_mamba_kernels": False,
            "adapter_rank": 4,
            "hybrid_layer_ids": [1],
        },
    ),
    "youtu": ("youtu", {**MLA, "num_key_value_heads": 4}),
    "solar_open": ("solar_open", {**MOE, "head_dim": 8}),
    "hyperclovax": ("hyperclovax", {"logits_scaling": 0.5}),
    "jais2": ("jais2", {}),
    "cwm": ("cwm", {"head_dim": 8, **MIXED}),
    "longcat_flash": (
        "longcat_flash",
        {
            **MLA,
            "num_key_value_heads": 4,
            "n_routed_experts": 4,
            "moe_topk": 2,
            "zero_expert_num": 2,
            "expert_ffn_hidden_size": 16,
            "ffn_hidden_size": 48,
            "num_layers": 1,
        },
    ),
    "jetmoe": ("jetmoe", {"num_local_experts": 4, "kv_channels": 8, "num_key_value_heads": 2}),
    "openai-gpt": ("openai-gpt", {"n_positions": 256}),
}

LONG = 40  # tokens of the longest response


def make(name: str, dtype: Any = None, seed: int = 0, **changes: Any) -> Any:
    """A small random causal LM with that name in FAMILIES; `changes` are further keys of its configuration."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    kind, differs = FAMILIES[name]
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**SIZES, **differs, **changes})).eval()
    with torch.no_grad():  # biases and norms are made at 0 and 1: a test must notice them
        for p in model.parameters():
            p.add_(torch.randn_like(p) * (0.3 if p.dim() == 1 else 0.1))
    return model.to(dtype or torch.float32)


def table() -> str:
    """The table of docs/models.md: how each model above is computed, according to its configuration."""
    from transformers import AutoConfig

    from sieverl.model import families

    rows = []
    for name, (kind, differs) in FAMILIES.items():
        ways = families.ways(AutoConfig.for_model(kind, **{**SIZES, **differs}))
        rows.append(f"| {name} | {'packed' if ways.packed else 'padded'} | {ways.decoding} |")
    refused = [f"| {kind} | refused | {why} |" for kind, why in families.REFUSED.items()]
    return "\n".join(["| model type | learner | decoding |", "|-|-|-|", *sorted(rows), *refused]) + "\n"


if __name__ == "__main__":
    print(table(), end="")
