"""Checkpoints: a directory in Hugging Face format plus the training state, written atomically.

checkpoints/step-50/   config.json, model.safetensors (or the adapter), tokenizer files
                       training.safetensors   optimiser state (the critic's weights and state too)
                       training.json          step, cursor, counters
                       manifest.json          SHA-256 of every file
checkpoints/latest  -> step-50
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from sieverl.distributed.fsdp import part_like, whole
from sieverl.files import sync, write_json
from sieverl.learner.learner import Learner
from sieverl.model.policy import Policy
from sieverl.run_dir.manifest import PREFIX, digest, load_state, steps
from sieverl.types import JsonObject


def save(
    directory: Path,
    policy: Policy,
    learner: Learner,
    state: JsonObject,
    keep: int,
    more: Mapping[str, Tensor] | None = None,
) -> None:
    """Write the checkpoint of `state["step"]`, point `latest` at it and delete all but the newest `keep`.

    `more` are tensors that are kept beside the optimiser's state. Every rank must call this, since sharded weights are
    put together; rank 0 writes them, as those of one process.
    """
    weights = {name: whole(x).cpu() for name, x in policy.model.state_dict().items()} if policy.sharded else None
    tensors = {**_tensors(learner), **(more or {})}
    if learner.world.rank:
        return
    directory.mkdir(parents=True, exist_ok=True)
    step = state["step"]
    made = sorted({*steps(directory), step})
    target, temporary = directory / f"{PREFIX}{step}", directory / f".{PREFIX}{step}.tmp"
    for stale in directory.glob(f".{PREFIX}*.tmp"):
        shutil.rmtree(stale)
    policy.model.save_pretrained(temporary, state_dict=weights)
    policy.tokenizer.save_pretrained(temporary)
    save_file(tensors, temporary / "training.safetensors")
    write_json(temporary / "training.json", {**state, "updates": learner.updates})
    files = sorted(p for p in temporary.rglob("*") if p.is_file())
    write_json(temporary / "manifest.json", {str(p.relative_to(temporary)): digest(p) for p in files})
    for path in [*files, temporary]:
        sync(path)
    if target.exists():
        shutil.rmtree(target)
    os.replace(temporary, target)
    link = directory / ".latest.tmp"
    link.unlink(missing_ok=True)
    link.symlink_to(target.name)
    os.replace(link, directory / "latest")
    sync(directory)
    for old in made[:-keep]:
        shutil.rmtree(directory / f"{PREFIX}{old}")


def restore(path: Path, learner: Learner) -> None:
    """Load the state of the optimiser (and of the critic). The policy's weights are loaded with the model."""
    learner.updates = int(load_state(path)["updates"])
    with safe_open(path / "training.safetensors", framework="pt") as file:
        for prefix, parameters, optimizer in _parts(learner):
            for name, parameter in parameters.items():
                if prefix == "critic":
                    parameter.data.copy_(part_like(file.get_tensor(f"critic.weight.{name}"), parameter))
                if f"{prefix}.step.{name}" not in file.keys():  # noqa: SIM118 (a safetensors handle, not a dict)
                    continue
                optimizer.state[parameter] = {"step": file.get_tensor(f"{prefix}.step.{name}")} | {
                    key: part_like(file.get_tensor(f"{prefix}.{key}.{name}").to(parameter.device), parameter)
                    for key in ("exp_avg", "exp_avg_sq")
                }


def load_tensors(path: Path, prefix: str) -> dict[str, Tensor]:
    """The tensors of the training state whose names begin with `prefix`."""
    with safe_open(path / "training.safetensors", framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys() if name.startswith(prefix)}  # noqa: SIM118


def _parts(learner: Learner) -> list[tuple[str, dict[str, torch.nn.Parameter], torch.optim.Optimizer]]:
    parts: list[tuple[str, dict[str, torch.nn.Parameter], torch.optim.Optimizer]] = [
        ("policy", learner.policy.parameters, learner.optimizer)
    ]
    if learner.critic is not None:
        parts.append(("critic", learner.critic.trained, learner.critic.optimizer))
    return parts


def _tensors(learner: Learner) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for prefix, parameters, optimizer in _parts(learner):
        for name, parameter in parameters.items():
            if prefix == "critic":
                tensors[f"critic.weight.{name}"] = whole(parameter.data).contiguous()
            for key, value in optimizer.state.get(parameter, {}).items():
                tensors[f"{prefix}.{key}.{name}"] = whole(torch.as_tensor(value)).contiguous()
    return tensors
