"""Checkpoints: a directory in Hugging Face format plus the training state, written atomically.

checkpoints/step-50/   config.json, model.safetensors (or the adapter), tokenizer files
                       training.safetensors   optimiser state (the critic's weights and state too)
                       queue.safetensors      batches that wait for the learner
                       training.json          step, cursor, counters
                       manifest.json          SHA-256 of every file
checkpoints/latest  -> step-50

With `checkpoint.format = "sharded"` there is a folder `training/` with a file for each rank instead of
`training.safetensors`, and no rank ever holds all of it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from sieverl.distributed import parts
from sieverl.distributed.fsdp import part_like
from sieverl.distributed.world import World
from sieverl.errors import CheckpointError
from sieverl.files import fill, link, make_folder, move, remove, storing, sync
from sieverl.learner.learner import Learner
from sieverl.model.policy import Policy
from sieverl.recipe import Checkpoint
from sieverl.run_dir import manifest
from sieverl.run_dir.manifest import PREFIX, load_state
from sieverl.training.formats import FORMATS, PARTS, STATE, staged
from sieverl.types import JsonObject

QUEUE = "queue.safetensors"


def saving(
    directory: Path,
    policy: Policy,
    learner: Learner,
    state: JsonObject,
    settings: Checkpoint,
    queue: Mapping[str, Tensor],
    best: int | None = None,
    world: World | None = None,
) -> Callable[[], None]:
    """What writes the checkpoint of `state["step"]`, points `latest` at it and deletes those that are not kept.

    `settings` says what is kept; `queue` has the tensors of batches that wait, the same on every rank; `best` is the
    step of the best evaluation, if that is to be kept. Every rank must call this and then what it returns: in another
    thread with a `world` of its own if `settings.background`, since it writes copies. It raises a StorageError where
    the disk does not take it: the checkpoints before it are as they were.
    """
    world, tensors = world or learner.world, _tensors(learner)
    needed = sum(x.nbytes for x in tensors.values()) + sum(x.nbytes for x in policy.parameters.values())
    take = staged if settings.background else dict
    write = FORMATS[settings.format](policy, tensors, take, world.rank == 0)
    state = {**state, "updates": learner.updates}

    def save() -> None:
        temporary = directory / f".{PREFIX}{state['step']}.tmp"
        with storing(f"the checkpoint of step {state['step']}", directory, needed):
            if world.rank == 0:
                _sweep(directory, "tmp", "gone")
                make_folder(temporary)
            world.barrier()
            fill(temporary, lambda folder: write(folder, world))
            world.barrier()
            if world.rank == 0:
                fill(temporary, lambda folder: _complete(folder, policy, state, queue))
                _commit(directory, temporary, state["step"])
                _forget(directory, state["step"], settings, best)
            world.barrier()

    return save


def _complete(folder: Path, policy: Policy, state: JsonObject, queue: Mapping[str, Tensor]) -> None:
    """What rank 0 writes beside weights and optimiser state, with the hashes of all files."""
    if queue:
        save_file(dict(queue), folder / QUEUE)
    policy.tokenizer.save_pretrained(folder)
    (folder / manifest.STATE).write_text(json.dumps(state, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    digests = {path.relative_to(folder).as_posix(): manifest.digest(path) for path in files}
    (folder / manifest.MANIFEST).write_text(json.dumps(digests, indent=2) + "\n", encoding="utf-8")


def _commit(directory: Path, temporary: Path, step: int) -> None:
    """Move a complete checkpoint to its place; one of the same step stays until it is there."""
    for path in [*sorted(temporary.rglob("*")), temporary]:
        sync(path)
    target, old = directory / f"{PREFIX}{step}", manifest.replaced(directory, step)
    if target.exists():
        if manifest.verify_manifest(target) is None:
            remove(old)
            move(target, old)
        else:
            move(target, directory / f".{PREFIX}{step}.gone")
    move(temporary, target)
    sync(directory)
    link(directory / "latest", target.name)
    sync(directory)


def _forget(directory: Path, step: int, settings: Checkpoint, best: int | None) -> None:
    """Delete the checkpoints up to `step` that need not be kept; later ones are of a run that went another way."""
    made = [s for s in manifest.steps(directory) if s <= step]
    kept = {*made[-settings.keep :], best}
    for old in made:
        if old not in kept and not (settings.keep_every and old % settings.keep_every == 0):
            gone = directory / f".{PREFIX}{old}.gone"
            remove(gone)
            move(directory / f"{PREFIX}{old}", gone)
    _sweep(directory, "gone", "old")


def _sweep(directory: Path, *endings: str) -> None:
    """Remove what is aside under names with these endings; `manifest` says what they mean."""
    for ending in endings:
        for left in directory.glob(f".{PREFIX}*.{ending}"):
            remove(left)


def settle(directory: Path, found: Path) -> None:
    """Finish what a kill has left of a save: `found`, the checkpoint to resume from, is in its place, and `latest`."""
    target = directory / f"{PREFIX}{manifest.step_of(found)}"
    if found != target:
        remove(target)  # damaged
        move(found, target)
        sync(directory)
    _sweep(directory, "tmp", "gone", "old")
    latest = directory / "latest"
    if not latest.is_symlink() or os.readlink(latest) != target.name:
        link(latest, target.name)
        sync(directory)


def restore(path: Path, learner: Learner) -> None:
    """Load the state of the optimiser (and of the critic). The policy's weights are loaded with the model."""
    learner.updates = int(load_state(path)["updates"])
    whole_file = (path / STATE).is_file()
    found, fill = (_names, _fill) if whole_file else (parts.names, parts.read)
    file = path / (STATE if whole_file else PARTS)
    there, targets = found(file), {}
    for prefix, parameters, optimizer in _optimized(learner):
        for name, parameter in parameters.items():
            if prefix == "critic":
                targets[f"critic.weight.{name}"] = parameter.data
            if f"{prefix}.step.{name}" not in there:
                continue
            state = {key: torch.zeros_like(parameter.data) for key in ("exp_avg", "exp_avg_sq")}
            state["step"] = torch.zeros((), device=parameter.device)
            targets |= {f"{prefix}.{key}.{name}": tensor for key, tensor in state.items()}
            optimizer.state[parameter] = state
    fill(file, targets)


def load_queue(path: Path) -> dict[str, Tensor]:
    """The tensors of the batches that waited."""
    return load_file(path / QUEUE) if (path / QUEUE).is_file() else {}


# --- what a learner has -----------------------------------------------------------------------------


def _names(file: Path) -> set[str]:
    with safe_open(file, framework="pt") as handle:
        return set(handle.keys())


def _fill(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Fill `tensors` from a file, with this rank's part where they are sharded."""
    with safe_open(file, framework="pt") as handle:
        for name, tensor in tensors.items():
            found = tuple(handle.get_slice(name).get_shape())
            if found != tuple(tensor.shape):
                raise CheckpointError(
                    f"{file}: {name} has the shape {found}, and the model's is {tuple(tensor.shape)}; this is the "
                    "state of another model, restore the right file or start in another --run-dir"
                )
            tensor.copy_(part_like(handle.get_tensor(name).to(tensor.device), tensor))


def _optimized(learner: Learner) -> list[tuple[str, dict[str, torch.nn.Parameter], torch.optim.Optimizer]]:
    """The trained parameters with their optimisers, each with the prefix of its names in a checkpoint."""
    out: list[tuple[str, dict[str, torch.nn.Parameter], torch.optim.Optimizer]] = [
        ("policy", learner.policy.parameters, learner.optimizer)
    ]
    if learner.critic is not None:
        out.append(("critic", learner.critic.trained, learner.critic.optimizer))
    return out


def _tensors(learner: Learner) -> dict[str, Tensor]:
    """Optimiser states, and the weights of the critic; sharded as they are."""
    tensors: dict[str, Tensor] = {}
    for prefix, parameters, optimizer in _optimized(learner):
        for name, parameter in parameters.items():
            if prefix == "critic":
                tensors[f"critic.weight.{name}"] = parameter.data
            for key, value in optimizer.state.get(parameter, {}).items():
                tensors[f"{prefix}.{key}.{name}"] = torch.as_tensor(value)
    return tensors
