"""Tensors in files that each rank writes and reads its part of (`torch.distributed.checkpoint`).

The storage is that for Hugging Face: safetensors files whose metadata is JSON, so nothing is unpickled. What was
written by some ranks is read by any other number of them.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import SHARDED_DIR_NAME
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from sieverl.distributed.world import World
from sieverl.errors import CheckpointError

FILE_BYTES = 5_000_000_000  # of a file of weights, about


def write(folder: Path, tensors: Mapping[str, Tensor], world: World) -> None:
    """Each rank writes its part of `tensors` into `folder`, which exists; a tensor that all hold, one of them."""
    with _storage():
        writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
        _save(_with_dimensions(tensors), writer, world)


def write_whole(folder: Path, tensors: Mapping[str, Tensor], world: World) -> None:
    """The same as files of whole tensors and their index, as `from_pretrained` of transformers takes them.

    Each rank writes its part, then the first one copies them together, piece by piece, and removes the parts.
    """
    number, size, files = 1, 0, {}
    for name, tensor in tensors.items():
        if size and size + tensor.numel() * tensor.element_size() > FILE_BYTES:
            number, size = number + 1, 0
        files[name] = number
        size += tensor.numel() * tensor.element_size()
    with _storage():
        writer = HuggingFaceStorageWriter(str(folder), files, save_distributed=True, enable_consolidation=True)
        _save(dict(tensors), writer, world)
    if world.rank == 0:
        shutil.rmtree(folder / SHARDED_DIR_NAME)


def _save(tensors: dict[str, Tensor], writer: HuggingFaceStorageWriter, world: World) -> None:
    dcp.save(tensors, storage_writer=writer, process_group=world.group, no_dist=not dist.is_initialized())


def names(folder: Path) -> set[str]:
    """The tensors in a folder."""
    return set(HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata)


def read(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Fill `tensors` from the files in `folder`, each rank its part.

    Raises a CheckpointError where one is missing or of another shape.
    """
    wanted, reader = _with_dimensions(tensors), HuggingFaceStorageReader(str(folder))
    there = reader.read_metadata().state_dict_metadata
    for name, tensor in wanted.items():
        found = there.get(name)
        shape = tuple(found.size) if isinstance(found, TensorStorageMetadata) else None
        if shape != tuple(tensor.shape):
            has = f"{name} has the shape {shape}" if shape else f"{name} is missing"
            raise CheckpointError(
                f"{folder}: {has}, and the model's is {tuple(tensor.shape)}; this is the state of another model, "
                "restore the right files or start in another --run-dir"
            )
    with _storage():
        dcp.load(wanted, storage_reader=reader, no_dist=not dist.is_initialized())


def _with_dimensions(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Numbers as vectors of one entry (views): a slice of a file has a dimension.

    By name, since their order decides which rank writes what all hold, and a restored optimiser has another one.
    """
    return {name: tensor if tensor.dim() else tensor.view(1) for name, tensor in sorted(tensors.items())}


@contextmanager
def _storage() -> Iterator[None]:
    """Without the warning that there are no other ranks, and with the error of the rank that has one.

    PyTorch's own, which has it in it, is no `Exception`: nobody would catch it.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        try:
            yield
        except CheckpointException as error:
            first = next(failure for failure, _ in error.failures.values())
            raise first from error
