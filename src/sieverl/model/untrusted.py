"""What the files of a model may say: sizes that its weights have, names of files beside them, and no code.

transformers and PEFT build whatever a configuration asks for before they look at the weights, so it is held against
the weights first. Every check raises a DataError with what was found.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sieverl.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

LAYERS = re.compile(r"n_layers?|num_layers|(num_(hidden|decoder|encoder)|decoder|encoder)_layers")
SIZES = re.compile(r"(hidden|intermediate|vocab|ffn)_(size|dim)|n_(embd|inner)|d_(model|ff)|num_\w*experts|head_dim")
# Fields of PEFT's LoRA configuration that have it import a module, or read or compute other files than the adapter's.
FOREIGN = ("megatron_config", "eva_config", "corda_config", "lora_ga_config", "velora_config")


def check_sizes(config: Mapping[str, object], path: Path, tensors: int, numbers: int) -> None:
    """Refuse a configuration of more layers than there are tensors, or of a size above all numbers in them together.

    >>> check_sizes({"num_hidden_layers": 10**9}, Path("m"), tensors=290, numbers=10**9)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    sieverl.errors.DataError: m/config.json has num_hidden_layers = 1,000,000,000, and ... 290 tensors: ...
    """
    for key, value in _integers(config):
        if LAYERS.fullmatch(key) and value > tensors:
            raise DataError(
                f"{path}/config.json has {key} = {value:,}, and the weights have {tensors:,} tensors: each layer has "
                "at least one; take the configuration and the weights of one model"
            )
        if SIZES.fullmatch(key) and value > numbers:
            raise DataError(
                f"{path}/config.json has {key} = {value:,}, and the weights have {numbers:,} numbers in all, "
                "at least one for each; take the configuration and the weights of one model"
            )
    width, rows = config.get("hidden_size"), config.get("vocab_size")
    if isinstance(width, int) and isinstance(rows, int) and width * rows > numbers:
        raise DataError(
            f"{path}/config.json has an embedding of {rows:,} x {width:,} = {rows * width:,} numbers, and the weights "
            f"have {numbers:,} in all; take the configuration and the weights of one model"
        )


def _integers(table: object) -> Iterator[tuple[str, int]]:
    """Every whole number in a configuration with its key, those of its parts (`text_config`) too."""
    if isinstance(table, Mapping):
        for key, value in table.items():
            if isinstance(value, int) and not isinstance(value, bool):
                yield str(key), value
            else:
                yield from _integers(value)


def check_beside(names: Sequence[object], where: Path, key: str) -> None:
    """Refuse a name that is not that of a file in the same directory.

    >>> check_beside(["../secret.safetensors"], Path("m/index.json"), "weight_map")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    sieverl.errors.DataError: m/index.json names the file '../secret.safetensors' (weight_map), ...
    """
    for name in names:
        if not isinstance(name, str) or name in ("", ".", "..") or re.search(r"[/\\\0]", name):
            raise DataError(
                f"{where} names the file {str(name)[:100]!r} ({key}), which is not beside it: only files of the "
                "model's own directory are read; copy the model again"
            )


def check_adapters(config: Mapping[str, object], where: Path) -> None:
    """Refuse adapters other than LoRA, and those that name a module to import or further files to read."""
    if config.get("peft_type") != "LORA":
        raise DataError(f"{where} has adapters of peft_type {str(config.get('peft_type'))[:40]!r}; LORA is supported")
    if foreign := next((key for key in FOREIGN if config.get(key)), None):
        raise DataError(f"{where} sets {foreign}, with which PEFT reads or imports more than the adapters; take it out")


def forget_implementations(config: PreTrainedConfig) -> None:
    """Take out what a configuration says of how it is computed and from which file: that is the recipe's to say.

    The name of an attention or of experts can be that of a Hub repository, whose code transformers would run.
    """
    config._attn_implementation = None
    config._experts_implementation = None
    for part in (config, *(getattr(config, name, None) for name in config.sub_configs)):
        for key in ("transformers_weights", "auto_map"):
            if part is not None and key in vars(part):
                delattr(part, key)
