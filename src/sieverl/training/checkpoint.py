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

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from sieverl.distributed import parts
from sieverl.distributed.fsdp import part_like, whole
from sieverl.files import sync, write_json
from sieverl.learner.learner import Learner
from sieverl.model.policy import Policy
from sieverl.model.types import as_module, has_adapters
from sieverl.recipe import Checkpoint
from sieverl.run_dir.manifest import PREFIX, digest, load_state, steps
from sieverl.types import JsonObject

QUEUE = "queue.safetensors"
STATE = "training.safetensors"  # in one file
PARTS = "training"  # the folder of a file for each rank
Writer = Callable[[Path, Policy, Mapping[str, Tensor], bool], None]
"""Writes weights and training state into a folder; all ranks call it, and the first one is told that it is."""


def save(
    directory: Path,
    policy: Policy,
    learner: Learner,
    state: JsonObject,
    settings: Checkpoint,
    queue: Mapping[str, Tensor],
) -> None:
    """Write the checkpoint of `state["step"]`, point `latest` at it and delete all but the newest `settings.keep`.

    `queue` has the tensors of batches that wait, the same on every rank. Every rank must call this; rank 0 puts the
    checkpoint in its place once all have written.
    """
    world, temporary = learner.world, directory / f".{PREFIX}{state['step']}.tmp"
    if world.rank == 0:
        for stale in directory.glob(f".{PREFIX}*.tmp"):
            shutil.rmtree(stale)
        temporary.mkdir(parents=True)
    world.barrier()
    WRITERS[settings.format](temporary, policy, _tensors(learner), world.rank == 0)
    world.barrier()
    if world.rank == 0:
        if queue:
            save_file(dict(queue), temporary / QUEUE)
        _finish(directory, temporary, policy, {**state, "updates": learner.updates}, settings.keep)


def _finish(directory: Path, temporary: Path, policy: Policy, state: JsonObject, keep: int) -> None:
    """Complete the checkpoint in `temporary` and move it to its place."""
    step = state["step"]
    target = directory / f"{PREFIX}{step}"
    made = sorted({*steps(directory), step})
    policy.tokenizer.save_pretrained(temporary)
    write_json(temporary / "training.json", state)
    written = sorted(temporary.rglob("*"))
    digests = {str(p.relative_to(temporary)): digest(p) for p in written if p.is_file()}
    write_json(temporary / "manifest.json", digests)
    for path in [*written, temporary]:
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


# --- the two formats --------------------------------------------------------------------------------


def _write_full(folder: Path, policy: Policy, tensors: Mapping[str, Tensor], first: bool) -> None:
    """Rank 0 writes everything; sharded tensors are put together one after the other, by all ranks."""
    _save_model(folder, policy, first)
    state = {name: x.contiguous() for name, x in _on_first(tensors, first).items()}
    if first:
        save_file(state, folder / STATE)


def _write_parts(folder: Path, policy: Policy, tensors: Mapping[str, Tensor], first: bool) -> None:
    """Each rank writes its part; the weights become files of whole tensors, since others read them too."""
    if has_adapters(policy.model):  # they are small
        _save_model(folder, policy, first)
    else:
        if first:
            model = policy.causal
            model.config.architectures = [type(model).__name__.removeprefix("FSDP")]
            model.config.dtype = str(policy.head.weight.dtype).removeprefix("torch.")
            model.config.save_pretrained(folder)
            model.generation_config.save_pretrained(folder)
        named = as_module(policy.causal).state_dict(keep_vars=True)
        tied_once = {id(x): (name, x.detach()) for name, x in reversed(named.items())}
        parts.write_whole(folder, dict(reversed(tied_once.values())))
    (folder / PARTS).mkdir(exist_ok=True)  # whichever rank is there first
    parts.write(folder / PARTS, tensors)


WRITERS: dict[str, Writer] = {"full": _write_full, "sharded": _write_parts}


def _save_model(folder: Path, policy: Policy, first: bool) -> None:
    """Weights (or adapters) and configurations by transformers' own function, on rank 0."""
    weights = None
    if policy.sharded:
        named = policy.model.state_dict()
        if has_adapters(policy.model):
            named = {name: x for name, x in named.items() if name in policy.parameters}
        weights = _on_first(named, first)
    if first:
        policy.model.save_pretrained(folder, state_dict=weights)


def _on_first(tensors: Mapping[str, Tensor], first: bool) -> dict[str, Tensor]:
    """Whole tensors on rank 0, in CPU memory, and nothing on the others, which help to put them together."""
    out = {}
    for name, tensor in tensors.items():
        together = whole(tensor)
        if first:
            out[name] = together.cpu()
    return out


def _names(file: Path) -> set[str]:
    with safe_open(file, framework="pt") as handle:
        return set(handle.keys())


def _fill(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Fill `tensors` from a file, with this rank's part where they are sharded."""
    with safe_open(file, framework="pt") as handle:
        for name, tensor in tensors.items():
            tensor.copy_(part_like(handle.get_tensor(name).to(tensor.device), tensor))


# --- what a learner has -----------------------------------------------------------------------------


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
