"""Frozen weights in 4 bits under LoRA adapters (QLoRA, arXiv 2305.14314), by bitsandbytes.

Every linear layer but the output layer holds NF4 numbers with double quantisation, 0.516 bytes a weight. A product
dequantises its weights to the dtype of its input; adapters, embedding and output layer stay as they are.
"""

from __future__ import annotations

from typing import Any

from sieverl.errors import UsageError
from sieverl.model.types import CausalModel


def check_installed() -> None:
    """Raise a UsageError with the install command where bitsandbytes is missing."""
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise UsageError(
            "model.quantization = 'nf4' needs bitsandbytes, which is not installed: pip install 'sieverl[quantization]'"
        ) from error


def arguments(device: str) -> dict[str, Any]:
    """What `from_pretrained` takes to quantise weights while it reads them, on their device."""
    check_installed()
    import torch
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    return {"quantization_config": config, "device_map": {"": device}}


def follow_input(model: CausalModel) -> None:
    """Let quantised layers compute in the dtype of their input, in the learner and in the engine alike.

    bitsandbytes would fix the dtype at the first call, and repack weights for inference on some CPUs, whose products
    then differ from those of training.
    """
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.compute_dtype, module.compute_type_is_set = None, True
            module.support_avx512bf16_for_cpu = False
