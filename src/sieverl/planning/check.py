"""Whether a run can fit at all: only what is surely needed, counted before anything loads."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

from sieverl.errors import UsageError
from sieverl.files import user_path
from sieverl.planning.memory import NF4_BYTES
from sieverl.planning.setting import setting_of
from sieverl.planning.shape import Shape, cached_shape
from sieverl.recipe import Recipe

SMALL = 1 << 30  # bytes that are not worth a question to the device


def check_memory(recipe: Recipe, path: str, ranks: int, sharing: int, free: Callable[[], float], device: str) -> None:
    """Raise a UsageError with the arithmetic where the surely needed memory is above what the device has.

    `free` gives its bytes and is asked only where it matters; `sharing` is how many of the `ranks` share it (all ranks
    of a machine share its CPU's memory). A model whose size is not known without loading it is let through.
    """
    sizes = model_size(path)
    if sizes is None:
        return
    parts = surely_needed(recipe, *sizes, ranks)
    needed = sum(parts.values()) * sharing
    if needed < SMALL or needed <= (has := free()):
        return
    arithmetic = " + ".join(f"{name} {bytes_ / 1e9:.1f}" for name, bytes_ in parts.items() if bytes_)
    times = f", times {sharing} processes that share it = {needed / 1e9:.1f} GB" if sharing > 1 else ""
    whole = sum(parts.values()) / 1e9
    raise UsageError(
        f"{path} with {sizes[0]:,} parameters does not fit: {arithmetic} = {whole:.1f} GB in each process{times}, and "
        f"{device} has {has / 1e9:.1f} GB free; `sieverl plan` shows what fits: more processes with "
        "--distributed.strategy fsdp, adapters with --model.lora.rank 32, or a smaller model "
        "(--distributed.check_memory false tries it all the same)"
    )


def surely_needed(recipe: Recipe, parameters: int, shape: Shape | None, ranks: int) -> dict[str, float]:
    """Bytes in each process for what no run can do without, in the moment that needs most: the update or sampling.

    Activations, caches and copies come on top. AdamW in float32 is 4 + 4 + 8 bytes a parameter.

    >>> from sieverl.recipe import Recipe
    >>> sum(surely_needed(Recipe(), 1_000_000, None, ranks=1).values())
    16000000
    """
    setting = setting_of(recipe, ranks)
    rest, part = setting.rest, setting.shard
    rank, quantized = setting.lora_rank, setting.quantization
    count = (shape.adapters(rank) if shape else 0) if rank else parameters
    frozen = parameters * rest
    if quantized:
        packed = shape.matrices if shape else parameters
        frozen = int(packed * NF4_BYTES) + (parameters - packed) * rest
    states = {
        "parameters": (frozen + (count * rest if rank else 0)) / part,
        "gradients": count * rest / part,
        "optimiser state": 2 * count * rest / part,
    }
    if setting.cpu_offload:
        states = {}
    if setting.engine == "torch" and part > 1:  # to sample, each process gathers all weights
        sampling = {name: size for name, size in states.items() if name != "gradients"}
        sampling["weights gathered to sample"] = parameters * setting.compute
        states = max(states, sampling, key=lambda moment: sum(moment.values()))
    return {name: int(size) for name, size in states.items()}


def model_size(path: str) -> tuple[int, Shape | None] | None:
    """Parameters of a model and, for a known family, its shape, without the network; None where nothing is known."""
    shape = cached_shape(path)
    folder = user_path(path)
    if folder.is_dir() and (counted := count_parameters(folder)):
        return counted, shape if shape and shape.parameters == counted else None
    return (shape.parameters, shape) if shape else None


def count_parameters(folder: Path) -> int:
    """Numbers in the safetensors files of a model directory, from their headers alone; 0 for files that are damaged."""
    total = 0
    for file in folder.glob("model*.safetensors"):
        try:
            with file.open("rb") as opened:
                length = int.from_bytes(opened.read(8), "little")
                header = json.loads(opened.read(min(length, file.stat().st_size)))
            total += sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return 0  # loading it says what is wrong
    return total
