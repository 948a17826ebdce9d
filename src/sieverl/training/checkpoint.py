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
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from sieverl.distributed import parts
from sieverl.distributed.fsdp import part_like, whole
from sieverl.errors import CheckpointError, SieveRLError, first_line
from sieverl.files import fill, link, make_folder, move, remove, storing, sync
from sieverl.learner.learner import Learner
from sieverl.model.policy import Policy
from sieverl.model.types import as_module, has_adapters
from sieverl.recipe import Checkpoint
from sieverl.run_dir import manifest
from sieverl.run_dir.manifest import PREFIX, load_state
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
    best: int | None = None,
) -> None:
    """Write the checkpoint of `state["step"]`, point `latest` at it and delete those that `settings` does not keep.

    `queue` has the tensors of batches that wait, the same on every rank; `best` is the step of the best evaluation,
    if that is to be kept.
    Every rank must call this; rank 0 puts the checkpoint in its place once all have written. Raises a StorageError
    where the disk does not take it: the checkpoints before it are as they were.
    """
    world, temporary = learner.world, directory / f".{PREFIX}{state['step']}.tmp"
    tensors = _tensors(learner)
    needed = sum(x.nbytes for x in tensors.values()) + sum(x.nbytes for x in policy.parameters.values())
    with storing(f"the checkpoint of step {state['step']}", directory, needed):
        if world.rank == 0:
            _sweep(directory, "tmp", "gone")
            make_folder(temporary)
        world.barrier()
        fill(temporary, lambda folder: WRITERS[settings.format](folder, policy, tensors, world.rank == 0))
        world.barrier()
        if world.rank == 0:
            fill(temporary, lambda folder: _complete(folder, policy, {**state, "updates": learner.updates}, queue))
            _commit(directory, temporary, state["step"])
            _forget(directory, state["step"], settings, best)


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


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what files of another form raise into a CheckpointError: the hashes are right, what they say is not."""
    try:
        yield
    except SieveRLError:
        raise
    except Exception as error:  # PyTorch, safetensors and NumPy refuse them with errors of all kinds
        raise CheckpointError(
            f"the checkpoint {path} cannot be resumed: {type(error).__name__}: {first_line(error)}; it is of another "
            "version or was edited: restore it, move it away to resume from the one before, or use another --run-dir"
        ) from error


def restore(path: Path, learner: Learner) -> None:
    """Load the state of the optimiser (and of the critic). The policy's weights are loaded with the model."""
    learner.updates = int(load_state(path)["updates"])
    whole_file = (path / STATE).is_file()
    found, fill = (_shapes, _fill) if whole_file else (parts.shapes, parts.read)
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


def _shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """The tensors of a file with their shapes."""
    with safe_open(file, framework="pt") as handle:
        return {name: tuple(handle.get_slice(name).get_shape()) for name in handle.keys()}  # noqa: SIM118 (no dict)


def _fill(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Fill `tensors` from a file, with this rank's part where they are sharded."""
    found = _shapes(file)
    with safe_open(file, framework="pt") as handle:
        for name, tensor in tensors.items():
            parts.check_shape(file, name, found.get(name), tuple(tensor.shape))
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
