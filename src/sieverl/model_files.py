"""From the files of a model to the model and its tokenizer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from sieverl.errors import DataError

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}


def stop_ids(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """Every id that ends a response: the generation config's `eos_token_id` (one or several), else the tokenizer's."""
    config = getattr(model, "generation_config", None)
    ids = getattr(config, "eos_token_id", None)
    if ids is None:
        ids = tokenizer.eos_token_id
    if ids is None:
        raise DataError("the model has no end-of-text token; set eos_token_id in its generation_config.json")
    return tuple(int(i) for i in (ids if isinstance(ids, Sequence) else [ids]))


def load_tokenizer(path: str) -> Any:
    """The tokenizer of a local directory or Hub id."""
    from transformers import AutoTokenizer

    _check_directory(path)
    try:
        return AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise DataError(_cannot(path, "tokenizer", error)) from error


def load_model(path: str, dtype: str = "float32", device: str = "cpu", implementation: str | None = None) -> Any:
    """A causal LM with float32 parameters (float64 when asked), dropout off."""
    from transformers import AutoModelForCausalLM

    _check_directory(path)
    parameters = torch.float64 if dtype == "float64" else torch.float32
    try:
        model = AutoModelForCausalLM.from_pretrained(path, dtype=parameters, attn_implementation=implementation)
    except (OSError, ValueError, json.JSONDecodeError) as error:
        raise DataError(_cannot(path, "model", error)) from error
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    for (
        p
    ) in model.parameters():  # out of the mapped file: sums depend on alignment, and a resume must give the same bits
        p.data = p.data.to(device, copy=True)
    return model.to(device).eval()


def _check_directory(path: str) -> None:
    looks_local = path.startswith((".", "/", "~")) or path.count("/") > 1
    if looks_local and not (Path(path) / "config.json").is_file():
        raise DataError(f"{path} holds no config.json; model.path is a Hugging Face model directory or a Hub id")


def _cannot(path: str, what: str, error: Exception) -> str:
    first = str(error).strip().splitlines()[0][:200]
    return (
        f"cannot load the {what} of {path}: {first} (a Hugging Face directory or Hub id; offline use a local directory)"
    )
