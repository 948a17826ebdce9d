"""From the files of a model to the model and its tokenizer: nothing is trained or measured that was not loaded.

transformers initialises at random what a file lacks and warns; here that is an error, like everything else that would
make another model of it than the one that was saved. All errors are one line, and no library speaks beside it.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from sieverl.errors import DataError, SieveRLError, UsageError, first_line, nearest
from sieverl.model import attention

FULL_PRECISION = ("F64", "F32", "F16", "BF16")  # floating-point kinds of safetensors that can be trained
TABLES = (
    *("config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json"),
    *("adapter_config.json", "model.safetensors.index.json"),
)
WEIGHTS, INDEX, ADAPTER = "model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors"
POINTER = b"version https://git-lfs"


@contextmanager
def _loading(path: str, what: str, implementation: str | None = None) -> Iterator[None]:
    """Whatever goes wrong in a library while it loads is one line; meanwhile its own warnings and bars are off."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    before = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except SieveRLError:
        raise
    except Exception as error:  # the files are the user's, and the libraries raise anything from TypeError to Exception
        first = first_line(error)
        if implementation and (isinstance(error, ImportError) or implementation in str(error)):
            raise UsageError(
                f"model.attention = {implementation!r} does not work here: {first}; use sdpa or eager"
            ) from error
        raise DataError(
            f"cannot load the {what} of {path}: {first} (a Hugging Face directory or Hub id; offline use a local "
            "directory)"
        ) from error
    finally:
        logging.set_verbosity(before)


# --- checks -----------------------------------------------------------------------------------------


def check_attention(name: str | None) -> None:
    """A UsageError for an attention implementation that transformers does not have."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    known = ["eager", *sorted(k for k in ALL_ATTENTION_FUNCTIONS.valid_keys() if "|" not in k and k != attention.NAME)]
    if name is not None and name not in known:
        raise UsageError(f"model.attention is {name!r}; allowed: {', '.join(known)}.{nearest(name, known)}")


def check_vocabulary(model: Any, tokenizer: Any, path: str) -> None:
    """Every id of the tokenizer's own vocabulary needs an embedding. More embeddings than ids are padding, and fine.

    An added token without an embedding is harmless (Gemma 3 has one for images) as long as no prompt holds it.
    """
    rows = model.get_input_embeddings().weight.shape[0]
    own = tokenizer.get_vocab().items() - tokenizer.get_added_vocab().items()
    token, last = max(own, key=lambda item: item[1], default=("", -1))
    if last >= rows:
        raise DataError(
            f"the tokenizer of {path} has ids up to {last} ({token!r}), and the model has {rows} embeddings; take the "
            "tokenizer that belongs to the weights, or enlarge the model with resize_token_embeddings and save both"
        )


def check_ids(model: Any, tokenizer: Any, prompts: Iterable[Sequence[int]]) -> None:
    """Every token of the prompts needs an embedding, added ones too."""
    rows = model.get_input_embeddings().weight.shape[0]
    last = max(map(max, prompts))
    if last >= rows:
        raise DataError(
            f"a prompt holds the token {tokenizer.decode([last])!r} with id {last}, and the model has {rows} "
            "embeddings; take the tokenizer that belongs to the weights, or another chat template"
        )


def _is_local(path: str) -> bool:
    """Whether it is a directory here (of a model); anything else is a Hub id."""
    local = Path(path).is_dir() or path.startswith((".", "/", "~")) or path.count("/") > 1
    if local and not (Path(path) / "config.json").is_file():
        raise DataError(f"{path} holds no config.json; model.path is a Hugging Face model directory or a Hub id")
    return local


def _check_tables(folder: Path) -> None:
    """What is there of the JSON files must be JSON, and no file a pointer to one that was not fetched."""
    for file in sorted(folder.iterdir()):
        if file.is_file():
            with file.open("rb") as handle:
                start = handle.read(len(POINTER))
            if start == POINTER:
                raise DataError(f"{file} is a Git LFS pointer, not the file itself; run git lfs pull in {folder}")
    for file in (folder / name for name in TABLES):
        if file.is_file():
            try:
                table = json.loads(file.read_text(encoding="utf-8"))
            except ValueError as error:
                raise DataError(f"{file} is no JSON: {error}; copy it anew") from error
            if not isinstance(table, dict):
                raise DataError(f"{file} holds no table, but {type(table).__name__}; copy it anew")


def _check_config(path: str) -> None:
    """A family that transformers has, in full precision, without code of its own."""
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedConfig

    with _loading(path, "config"):
        config, _ = PreTrainedConfig.get_config_dict(path)
    if quantization := config.get("quantization_config"):
        method = quantization.get("quant_method", "bitsandbytes") if isinstance(quantization, dict) else quantization
        raise DataError(
            f"{path} is quantized ({method}): weights are trained in full precision; take the model it was made from"
        )
    family = config.get("model_type")
    if family is None:
        raise DataError(f"{path}/config.json has no model_type, which says what the weights are; copy it anew")
    if family not in CONFIG_MAPPING:
        raise DataError(
            f"{path} needs code of its own (auto_map), which SieveRL does not run; take a model of a family that "
            "transformers has"
            if config.get("auto_map")
            else f"{path}: the installed transformers has no model_type {family!r}; upgrade it or correct config.json"
        )
    if CONFIG_MAPPING[family] not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise DataError(f"{path} is of the family {family!r}, which is no causal language model; take one that is")


def _check_weights(folder: Path) -> None:
    """Safetensors, whole, all parts of them."""
    index = folder / INDEX
    if (folder / WEIGHTS).is_file():
        files = [folder / WEIGHTS]
    elif index.is_file():
        parts = json.loads(index.read_text(encoding="utf-8")).get("weight_map")
        if not isinstance(parts, dict) or not all(isinstance(part, str) for part in parts.values()):
            raise DataError(f"{index} has no weight_map of names to files; copy it anew")
        files = [folder / part for part in sorted(set(parts.values()))]
    elif pickled := next((file for kind in ("*.bin", "*.pt", "*.pth") for file in sorted(folder.glob(kind))), None):
        raise DataError(
            f"{pickled} is a pickle, which can run code when it is read; convert it to safetensors (save_pretrained)"
        )
    else:
        raise DataError(f"{folder} holds no weights: neither {WEIGHTS} nor {INDEX}; copy them to its config.json")
    for file in files:
        _names(file)


def _names(file: Path) -> set[str]:
    """The names in a safetensors file that is whole and of full precision."""
    if not file.is_file():
        raise DataError(f"the weights {file} are missing; copy them anew (adapters and models as safetensors)")
    try:
        with safe_open(file, "pt") as weights:
            kinds = {name: weights.get_slice(name).get_dtype() for name in weights.keys()}  # noqa: SIM118 (no dict)
    except (SafetensorError, OSError, ValueError) as error:
        raise DataError(f"{file} is damaged: {error}; copy it anew") from error
    for name, kind in kinds.items():
        if kind.startswith("F") and kind not in FULL_PRECISION:
            raise DataError(f"{file} is quantized ({name} is {kind}): weights are trained in full precision")
    return set(kinds)


def _check_complete(path: str, **faults: Iterable[str]) -> None:
    """No weight may be missing, left over or of another shape."""
    told = []
    for fault, keys in faults.items():
        if few := sorted(keys):
            told.append(f"{len(few)} {fault.replace('_', ' ')} ({', '.join(few[:3])}{', ...' if few[3:] else ''})")
    if told:
        raise DataError(
            f"the weights of {path} are not those of its configuration: {'; '.join(told)}; take the configuration "
            "and the weights of one model"
        )
