"""A model to use, not to train: a shipped one, a directory, a run's newest checkpoint, a checkpoint or a Hub id."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import torch

from sieverl.assets import model_place
from sieverl.errors import DataError
from sieverl.files import user_path
from sieverl.model.files import local_folder
from sieverl.model.load import base_model_of_adapters, choose_device, load_policy, load_tokenizer
from sieverl.model.policy import Policy
from sieverl.model.types import CausalModel
from sieverl.run_dir import manifest


def find_model(name: str) -> tuple[str, Path | None]:
    """The directory of a model, and its run directory if it is a checkpoint (of a run, the newest one).

    Raises a DataError for a name that is no model, and for a damaged checkpoint.
    """
    if name and (place := model_place(name)) != name:
        return place, None
    path = user_path(name)
    if not path.is_dir():
        if path.exists() or not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name):
            allowed = "give a directory, a run, a Hub id (org/name), `base` or `hasty`"
            raise DataError(f"there is no model {name}: {allowed}")
        return str(local_folder(name)), None
    path = path / "checkpoints" if (path / "checkpoints").is_dir() else path
    if steps := manifest.steps(path):
        path = path / f"{manifest.PREFIX}{steps[-1]}"
    if not any((path / file).is_file() for file in ("config.json", "adapter_config.json")):
        raise DataError(f"{name} holds no model: neither config.json, nor adapter_config.json, nor checkpoints")
    path = path.resolve()
    if (path / "manifest.json").is_file() and (fault := manifest.verify_manifest(path)):
        raise DataError(f"the checkpoint {path} is damaged: {fault}; evaluate another, or copy it again")
    return str(path), path.parent.parent if path.parent.name == "checkpoints" else None


def load_for_use(path: str, dtype: str) -> Policy:
    """The policy of a model, or of LoRA adapters on their base model, computed as in training."""
    found = Path(path) if (Path(path) / "adapter_config.json").is_file() else None
    path = base_model_of_adapters(found) if found else path
    return load_policy(path, load_tokenizer(path), dtype, choose_device("auto"), found=found)


def weights_hash(model: CausalModel | torch.nn.Module) -> str:
    """SHA-256 over the names and float32 values of all parameters, whatever files they were loaded from.

    >>> weights_hash(torch.nn.Linear(1, 1, bias=False)) == weights_hash(torch.nn.Linear(1, 1, bias=False))
    False
    """
    total = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        total.update(name.encode())
        total.update(parameter.detach().float().cpu().contiguous().numpy().data)
    return total.hexdigest()
