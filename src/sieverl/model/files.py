"""Checks of the files of a model: nothing is trained or measured that was not loaded from them.

transformers initialises missing weights at random and warns; here that is an error, like everything else that would
load another model than the one that was saved. Every error is one line, without warnings of libraries beside it.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open

from sieverl.download import download
from sieverl.errors import DataError, SieveRLError, UsageError, first_line, nearest
from sieverl.model import attention, untrusted
from sieverl.model.types import CausalModel
from sieverl.types import Tokenizer

FULL_PRECISION = ("F64", "F32", "F16", "BF16")  # floating-point dtypes of safetensors that can be trained
TABLES = (
    *("config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json"),
    *("adapter_config.json", "model.safetensors.index.json"),
)
WEIGHTS, INDEX, ADAPTER = "model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors"
FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken", "*.spm")  # weights, tables, tokenizer
POINTER = b"version https://git-lfs"


@contextmanager
def loading(path: str, what: str, implementation: str | None = None) -> Iterator[None]:
    """Turns the errors of libraries that load `what` into one line; meanwhile their warnings and bars are off."""
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
    """Raise a UsageError for an attention implementation that transformers does not have."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    known = ["eager", *sorted(k for k in ALL_ATTENTION_FUNCTIONS.valid_keys() if "|" not in k and k != attention.NAME)]
    if name is not None and name not in known:
        raise UsageError(f"model.attention is {name!r}; allowed: {', '.join(known)}.{nearest(name, known)}")


def check_vocabulary(model: CausalModel, tokenizer: Tokenizer, path: str) -> None:
    """Raise a DataError unless every id of the tokenizer's own vocabulary has an embedding.

    More embeddings than ids are padding. An added token without an embedding is harmless (Gemma 3 has one for images)
    as long as no prompt contains it.
    """
    embeddings = model.get_input_embeddings().weight.shape[0]
    own = tokenizer.get_vocab().items() - tokenizer.get_added_vocab().items()
    token, last = max(own, key=lambda item: item[1], default=("", -1))
    if last >= embeddings:
        raise DataError(
            f"the tokenizer of {path} has ids up to {last} ({token!r}), and the model has {embeddings} "
            "embeddings; take the tokenizer that belongs to the weights, or enlarge the model with "
            "resize_token_embeddings and save both"
        )


def check_ids(model: CausalModel, tokenizer: Tokenizer, prompts: Iterable[Sequence[int]]) -> None:
    """Raise a DataError unless every token of the prompts has an embedding, added tokens included."""
    embeddings = model.get_input_embeddings().weight.shape[0]
    last = max(map(max, prompts))
    if last >= embeddings:
        raise DataError(
            f"a prompt contains the token {tokenizer.decode([last])!r} with id {last}, and the model has "
            f"{embeddings} embeddings; take the tokenizer that belongs to the weights, or another chat template"
        )


def is_local(path: str) -> bool:
    """Whether it is a local directory; everything else is a Hub id. Raises a DataError for one without a model."""
    local = Path(path).is_dir() or path.startswith((".", "/", "~")) or path.count("/") > 1
    if local and not (Path(path) / "config.json").is_file():
        raise DataError(f"{path} has no config.json; model.path is a Hugging Face model directory or a Hub id")
    return local


def local_folder(path: str) -> Path:
    """The directory of a model; a Hub id is downloaded whole, so that what is checked is what is loaded."""
    if is_local(path):
        return Path(path)
    return download(path, "model", only=FILES, ignore=("*/*", "consolidated*"))


def check_tables(folder: Path) -> None:
    """Raise a DataError for a JSON file that is not JSON, and for a Git LFS pointer in place of a file."""
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
            except (ValueError, RecursionError, OSError) as error:
                raise DataError(f"{file} is not valid JSON: {error}; copy it again") from error
            if not isinstance(table, dict):
                raise DataError(f"{file} is not a JSON object, but {type(table).__name__}; copy it again")
            for key in ("fast_tokenizer_files", "transformers_weights"):
                named = table.get(key) or []
                untrusted.check_beside(named if isinstance(named, list) else [named], file, key)


def check_config(path: Path) -> None:
    """Raise a DataError unless it is a causal LM that transformers has, in full precision, without its own code."""
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedConfig

    with loading(str(path), "config"):
        config, _ = PreTrainedConfig.get_config_dict(path)
    if quantization := config.get("quantization_config"):
        method = quantization.get("quant_method", "bitsandbytes") if isinstance(quantization, dict) else quantization
        raise DataError(
            f"{path} is quantized ({method}): weights are trained in full precision; take the model it was made from"
        )
    family = config.get("model_type")
    if family is None:
        raise DataError(f"{path}/config.json has no model_type, which says what the weights are; copy it again")
    if family not in CONFIG_MAPPING:
        raise DataError(
            f"{path} needs its own code (auto_map), which SieveRL does not run; use a model type that transformers has"
            if config.get("auto_map")
            else f"{path}: the installed transformers has no model_type {family!r}; upgrade it or correct config.json"
        )
    if CONFIG_MAPPING[family] not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise DataError(f"{path} has model_type {family!r}, which is not a causal language model; use one that is")


def check_weights(folder: Path) -> None:
    """Raise a DataError unless the weights are there, as whole safetensors files, and enough for the config."""
    sizes = [size for file in weight_files(folder) for size in tensor_sizes(file).values()]
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    untrusted.check_sizes(config, folder, len(sizes), sum(sizes))


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model. Raises a DataError without any."""
    index = folder / INDEX
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if index.is_file():
        parts = json.loads(index.read_text(encoding="utf-8")).get("weight_map")
        if not isinstance(parts, dict) or not all(isinstance(part, str) for part in parts.values()):
            raise DataError(f"{index} has no weight_map of names to files; copy it again")
        untrusted.check_beside(list(parts.values()), index, "weight_map")
        return [folder / part for part in sorted(set(parts.values()))]
    if pickled := next((file for pattern in ("*.bin", "*.pt", "*.pth") for file in sorted(folder.glob(pattern))), None):
        raise DataError(
            f"{pickled} is a pickle, which can run code when it is read; convert it to safetensors (save_pretrained)"
        )
    raise DataError(f"{folder} holds no weights: neither {WEIGHTS} nor {INDEX}; copy them next to its config.json")


def tensor_sizes(file: Path) -> dict[str, int]:
    """How many numbers each tensor of a safetensors file has. Raises a DataError for a damaged or a quantised one."""
    if not file.is_file():
        raise DataError(f"the weights {file} are missing; copy them again (adapters and models as safetensors)")
    try:
        with safe_open(file, "pt") as weights:
            slices = {name: weights.get_slice(name) for name in weights.keys()}  # noqa: SIM118 (no dict)
            dtypes = {name: part.get_dtype() for name, part in slices.items()}
            sizes = {name: math.prod(part.get_shape()) for name, part in slices.items()}
    except (SafetensorError, OSError, ValueError) as error:
        raise DataError(f"{file} is damaged: {error}; copy it again") from error
    for name, dtype in dtypes.items():
        if dtype.startswith("F") and dtype not in FULL_PRECISION:
            raise DataError(f"{file} is quantized ({name} is {dtype}): weights are trained in full precision")
    return sizes


def check_complete(path: str, **faults: Iterable[str]) -> None:
    """Raise a DataError that lists the weights with each fault (missing, unexpected, of another shape), if any."""
    found = []
    for fault, keys in faults.items():
        if few := sorted(keys):
            found.append(f"{len(few)} {fault.replace('_', ' ')} ({', '.join(few[:3])}{', ...' if few[3:] else ''})")
    if found:
        raise DataError(
            f"the weights of {path} are not those of its configuration: {'; '.join(found)}; take the configuration "
            "and the weights of one model"
        )
