"""Tensors in a folder of parts: what is read is what was written, or refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sieverl.distributed import parts
from sieverl.distributed.world import World
from sieverl.errors import CheckpointError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    parts.write(tmp_path, {"a": torch.arange(6.0).view(2, 3), "step": torch.tensor(4.0)}, World())
    return tmp_path


def test_shapes_and_tensors_come_back(folder: Path) -> None:
    assert parts.shapes(folder) == {"a": (2, 3), "step": (1,)}
    found = {"a": torch.zeros(2, 3), "step": torch.zeros(())}
    parts.read(folder, found)
    assert found["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert found["step"].item() == 4


@pytest.mark.parametrize("shape", [(3, 2), (2, 2), (4, 3), (6,), (2, 3, 1)])
def test_fuzz_a_tensor_of_another_shape_is_refused_by_name(folder: Path, shape: tuple[int, ...]) -> None:
    target = torch.zeros(shape)
    with pytest.raises(CheckpointError, match=r"a has the shape \(2, 3\), and the model's is "):
        parts.read(folder, {"a": target})
    assert not target.any(), "nothing was read"


def test_fuzz_a_tensor_that_is_missing_is_refused_by_name(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="b is missing, and the model's is"):
        parts.read(folder, {"a": torch.zeros(2, 3), "b": torch.zeros(2)})
