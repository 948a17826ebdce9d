"""From the files of a model to a policy that is known to be computed right, with or without adapters."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Protocol

import torch

from sieverl import families
from sieverl.errors import DataError, UsageError
from sieverl.model import Policy
from sieverl.model_files import DTYPES, check_vocabulary, load_adapters, load_model, new_adapters


class Adapters(Protocol):
    """The sizes of LoRA adapters, and on which layers they stand."""

    @property
    def rank(self) -> int: ...
    @property
    def alpha(self) -> float: ...
    @property
    def targets(self) -> str: ...


def load_policy(
    path: str,
    tokenizer: Any,
    dtype: str = "float32",
    device: str = "cpu",
    attention: str | None = None,
    lora: Adapters | None = None,
    seed: int = 0,
    found: Path | None = None,
) -> Policy:
    """The policy of the model at `path`, or of the checkpoint `found`.

    With `lora` it is the model with new adapters (made by `seed`); with `found`, adapters there are put on the model.
    Raises a DataError for a family that is not supported, or files that do not make a whole model.
    """
    adapters = found is not None and (found / "adapter_config.json").is_file()
    full = str(found) if found is not None and not adapters else path
    model = load_model(full, dtype, device, attention)
    check_vocabulary(model, tokenizer, path)
    if adapters and found is not None:
        model = load_adapters(model, found)
    elif lora is not None:
        torch.manual_seed(seed)
        model = new_adapters(model, lora.rank, lora.alpha, lora.targets)
    policy = Policy(model, tokenizer, DTYPES[dtype])
    check_family(policy, full)
    return policy


def check_family(policy: Policy, path: str) -> None:
    """Our log-probs are made from hidden states and the output layer, of tokens that see none to their right.

    A family with other last steps, or one that looks ahead, is refused by name.
    """
    families.check(policy.causal.config, path)
    name = type(policy.causal).__name__
    ids = torch.arange(8, device=policy.device)[None] % policy.head.weight.shape[0]
    try:
        with torch.no_grad():
            ours, theirs = policy.logits(policy.hidden(ids)), policy.causal(input_ids=ids).logits
            early = policy.logits(policy.hidden(ids[:, :4]))
    except Exception as error:  # a family that takes other inputs may fail in any way
        raise DataError(f"{path}: {name} is not supported; a trial ends in {type(error).__name__}: {error}") from error
    own = "logits made from the last hidden states differ from the model's own"
    ahead = "a token's logits change with the tokens after it, so that it is no causal language model; they differ"
    for what, one, other in ((own, ours, theirs), (ahead, ours[:, :4], early)):
        if not torch.allclose(one, other, atol=1e-3, rtol=1e-3):
            gap = float((one - other).abs().max())
            raise DataError(f"{path}: {what} by {gap:.3g}; {name} is not supported")


def choose_device(name: str) -> str:
    """The device that `auto`, `cpu` or `cuda` means here."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise UsageError(f"model.device is {name!r}, which PyTorch is not asked for; allowed: auto, cpu, cuda, cuda:1")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"model.device = {name!r}, but PyTorch sees no GPU here; use auto or cpu")
    return name
