"""From the files of a model to a policy that is known to be computed correctly, with or without adapters."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import Protocol

import torch

from sieverl.distributed.allocator import keep_less
from sieverl.errors import DataError, UsageError, first_line
from sieverl.model import families, quantized, untrusted
from sieverl.model.files import (
    ADAPTER,
    check_attention,
    check_complete,
    check_config,
    check_tables,
    check_vocabulary,
    check_weights,
    loading,
    local_folder,
    tensor_sizes,
)
from sieverl.model.policy import Policy
from sieverl.model.types import CausalModel
from sieverl.text import printable
from sieverl.types import Tokenizer

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}
PLAIN_TEXT = "1 + 1 = 2"
LARGEST_ID = 2**31  # of any vocabulary
TOKENIZERS = ("tokenizer.json", "*.model", "vocab.json", "vocab.txt", "tekken.json", "*.tiktoken", "*.spm")


def stop_ids(model: CausalModel, tokenizer: Tokenizer) -> tuple[int, ...]:
    """Every id that ends a response: the generation config's `eos_token_id` (one or several), else the tokenizer's.

    Raises a DataError without any, and for one that is no id of a token.
    """
    config = getattr(model, "generation_config", None)
    ids = getattr(config, "eos_token_id", None)
    if ids is None:
        ids = tokenizer.eos_token_id
    if ids is None:
        raise DataError("the model has no end-of-text token; set eos_token_id in its generation_config.json")
    several = ids if isinstance(ids, list | tuple) else [ids]
    wrong = [i for i in several if type(i) is not int or not 0 <= i < LARGEST_ID]
    if wrong:
        found = printable(repr(wrong[0]))[:80]
        raise DataError(
            f"eos_token_id in generation_config.json has {found}; it takes one id, or a list of them, as in "
            '"eos_token_id": [151645, 151643]'
        )
    return tuple(several)


# --- loading ----------------------------------------------------------------------------------------


def load_tokenizer(path: str) -> Tokenizer:
    """The tokenizer of a local directory or Hub id. Raises a DataError for one that makes no tokens of plain text."""
    from transformers import AutoTokenizer

    folder = local_folder(path)
    check_tables(folder)
    if not any(file for pattern in TOKENIZERS for file in folder.glob(pattern)):
        raise DataError(f"{path} has no tokenizer (tokenizer.json or tokenizer.model); copy it next to the weights")
    check_weights(folder)  # the tokenizer's class is looked up in the model's configuration, which builds it
    with loading(path, "tokenizer"):
        tokenizer: Tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        ids = tokenizer(PLAIN_TEXT, add_special_tokens=False)["input_ids"]
    if not set(ids) - {tokenizer.unk_token_id}:
        raise DataError(
            f"the tokenizer of {path} makes {'unknown' if ids else 'no'} tokens of {PLAIN_TEXT!r}: the model would "
            "not see its prompts; copy all files of the tokenizer that belongs to the weights"
        )
    return tokenizer


def load_model(
    path: str,
    dtype: str = "float32",
    device: str = "cpu",
    implementation: str | None = None,
    quantization: str | None = None,
) -> CausalModel:
    """A causal LM with float32 parameters (float64 for that `dtype`), dropout off; see `quantized` for `nf4`.

    Raises a DataError unless every parameter is in its files, a UsageError for an unknown attention `implementation`.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    keep_less()
    check_attention(implementation)
    folder = local_folder(path)
    check_tables(folder)
    check_config(folder)
    check_weights(folder)
    parameters = torch.float64 if dtype == "float64" else torch.float32
    with loading(path, "model", implementation):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        untrusted.forget_implementations(config)
        model, info = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=parameters,
            attn_implementation=implementation,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are listed below
            **(quantized.arguments(device) if quantization else {}),
        )
    mismatched = [f"{key} {list(ours)} for {list(wanted)}" for key, ours, wanted in info["mismatched_keys"]]
    check_complete(path, missing=info["missing_keys"], unexpected=info["unexpected_keys"], of_another_shape=mismatched)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    for name, p in model.named_parameters():
        if not torch.isfinite(p).all():
            raise DataError(f"the weights of {path} contain NaN or infinity, in {name}; use another copy")
        # copied out of the mapped file: sums depend on alignment, and a resume must give the same bits
        if p.is_floating_point():
            p.data = p.data.to(device, copy=True)
    model.name_or_path = path  # adapters say what they belong to: the Hub id, not its place in a cache
    if quantization:
        quantized.follow_input(model)
        return model.eval()
    return model.to(device).eval()


def new_adapters(model: CausalModel, rank: int, alpha: float, targets: str) -> CausalModel:
    """`model` with new LoRA adapters on the layers in `targets`, separated by commas, or on "all-linear" ones.

    Raises a UsageError for layers that the model lacks or that take no adapter.
    """
    from peft import LoraConfig, get_peft_model

    layers = targets if targets == "all-linear" else [name.strip() for name in targets.split(",")]
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules=layers)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about renamed modules that this model does not have
            adapted: CausalModel = get_peft_model(model, config)
            return adapted
    except ValueError as error:
        raise UsageError(
            f"model.lora.targets = {targets!r} does not fit {type(model).__name__}: {first_line(error)}"
        ) from error


def load_adapters(model: CausalModel, path: Path) -> CausalModel:
    """`model` with the trainable LoRA adapters of a directory. Raises a DataError unless all are in its file."""
    from peft import PeftModel, get_peft_model_state_dict

    check_tables(path)
    untrusted.check_adapters(json.loads((path / "adapter_config.json").read_text(encoding="utf-8")), path)
    found = set(tensor_sizes(path / ADAPTER))
    with loading(str(path), "adapters"):
        model = PeftModel.from_pretrained(model, path, is_trainable=True)
        wanted = set(get_peft_model_state_dict(model, save_embedding_layers=False))
    check_complete(str(path), missing=wanted - found, unexpected=found - wanted - set(model.state_dict()))
    return model


def base_model_of_adapters(path: Path) -> str:
    """The base model that adapters name in their `adapter_config.json`. Raises a DataError if they name none."""
    check_tables(path)
    name = json.loads((path / "adapter_config.json").read_text(encoding="utf-8")).get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise DataError(f"{path}/adapter_config.json names no base model; set its base_model_name_or_path")
    return name


class Adapters(Protocol):
    """The sizes of LoRA adapters, and the layers that have them."""

    @property
    def rank(self) -> int: ...
    @property
    def alpha(self) -> float: ...
    @property
    def targets(self) -> str: ...


def load_policy(  # many parameters: each is a key of the recipe, and all ways to load a policy meet here
    path: str,
    tokenizer: Tokenizer,
    dtype: str = "float32",
    device: str = "cpu",
    attention: str | None = None,
    lora: Adapters | None = None,
    seed: int = 0,
    found: Path | None = None,
    quantization: str | None = None,
) -> Policy:
    """The policy of the model at `path`, or of the checkpoint `found`.

    With `lora` it has new adapters, initialised from `seed`; adapters in `found` are put on the model at `path`.
    Raises a DataError for a model type that is not supported, and for incomplete files.
    """
    adapters = found is not None and (found / "adapter_config.json").is_file()
    full = str(found) if found is not None and not adapters else path
    model = load_model(full, dtype, device, attention, quantization)
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
    """Raise a DataError unless log-probs can be computed from the hidden states and the output layer.

    A model with other last steps, or whose tokens attend to later ones, is refused by name.
    """
    families.check(policy.causal.config, path)
    name = type(policy.causal).__name__
    ids = torch.arange(8, device=policy.device)[None] % policy.head.weight.shape[0]
    try:
        with torch.no_grad():
            ours, theirs = policy.logits(policy.hidden(ids)), policy.causal(input_ids=ids).logits
            early = policy.logits(policy.hidden(ids[:, :4]))
    except Exception as error:  # a model that takes other inputs may fail in any way
        raise DataError(f"{path}: {name} is not supported; a trial ends in {type(error).__name__}: {error}") from error
    own = "logits computed from the last hidden states differ from the model's own"
    ahead = "a token's logits depend on later tokens, so it is not a causal language model; they differ"
    for what, one, other in ((own, ours, theirs), (ahead, ours[:, :4], early)):
        if not torch.allclose(one, other, atol=1e-3, rtol=1e-3):
            gap = float((one - other).abs().max())
            raise DataError(f"{path}: {what} by {gap:.3g}; {name} is not supported")


def choose_device(name: str) -> str:
    """The device that `auto`, `cpu` or `cuda` means here."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise UsageError(f"model.device is {name!r}, which is not supported; allowed: auto, cpu, cuda, cuda:1")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"model.device = {name!r}, but PyTorch sees no GPU here; use auto or cpu")
    return name
