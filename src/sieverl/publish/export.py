"""A trained model as one folder that any program loads: adapters merged, in one dtype, with tokenizer and configs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from sieverl.errors import DataError, UsageError
from sieverl.files import existing_parent, fill, make_folder, move, remove, storing, sync
from sieverl.model.files import loading
from sieverl.model.find import find_model
from sieverl.model.load import base_model_of_adapters, load_adapters, load_model, load_tokenizer
from sieverl.model.types import CausalModel, as_module
from sieverl.run_dir import manifest
from sieverl.run_dir.saved import SavedRun, is_run

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
SHARD = "5GB"  # of a file of weights, at most
PLACES = ("_name_or_path", "name_or_path", "tokenizer_file", "vocab_file", "_commit_hash")


@dataclass(frozen=True)
class Source:
    """The model that is exported: where it is, and the step of its run; None where it is no checkpoint of one."""

    path: Path
    step: int | None


def choose(name: str, step: str | None) -> Source:
    """The checkpoint of a run that `step` names (a number, `best`, `latest`), or a checkpoint or model by its folder.

    Raises a UsageError for a step without a checkpoint, a DataError for what is no model or is damaged.
    """
    folder = Path(name).expanduser()
    checkpoints = folder / "checkpoints"
    if step is not None and not checkpoints.is_dir():
        raise UsageError(f"--step chooses a checkpoint of a run, and {name} is none with checkpoints; leave it out")
    made = manifest.steps(checkpoints)
    if checkpoints.is_dir() and not made:
        raise DataError(f"{name} has no checkpoint yet; one is written every checkpoint.every steps and at the end")
    if made:
        folder = checkpoints / f"{manifest.PREFIX}{_step(name, step or 'latest', made)}"
    path = Path(find_model(str(folder) if folder.is_dir() else name)[0])
    return Source(path, manifest.step_of(path) if re.fullmatch(rf"{manifest.PREFIX}\d+", path.name) else None)


def _step(name: str, step: str, made: list[int]) -> int:
    if step == "latest":
        return made[-1]
    if step == "best":
        best = SavedRun.read(Path(name)).best_step(made) if is_run(Path(name)) else None
        if best is None:
            raise UsageError(f"no checkpoint of {name} has a held-out evaluation, so none is the best; give its number")
        return best
    if not step.isdecimal() or int(step) not in made:
        raise UsageError(
            f"{name} has no checkpoint of step {step}; there are {', '.join(map(str, made))}, `best` and `latest`"
        )
    return int(step)


def export(source: Source, output: Path, dtype: str = "bfloat16", force: bool = False, shard: str = SHARD) -> list[str]:
    """Write the model into the new folder `output`, whole or not at all; what there is to say of it, in lines.

    With `force` a folder that holds a model is replaced. Raises a UsageError for a folder that is there, a DataError
    for a model that cannot be used or does not fit the dtype.
    """
    if dtype not in DTYPES:
        raise UsageError(f"--dtype is {dtype!r}; allowed: {', '.join(DTYPES)}")
    check_output(output, force)
    adapted = (source.path / "adapter_config.json").is_file()
    base = base_model_of_adapters(source.path) if adapted else str(source.path)
    tokenizer = load_tokenizer(base)
    model = cast(merged(base, source.path) if adapted else load_model(base), dtype, source.path)

    def write(folder: Path) -> None:
        folder.mkdir()
        with loading(str(source.path), "model"):
            model.save_pretrained(folder, max_shard_size=shard)  # type: ignore[call-arg]
        tokenizer.save_pretrained(folder)
        without_places(folder)

    with storing("the model", output, sum(p.nbytes for p in model.parameters())), aside(output) as temporary:
        fill(temporary, write)
    return _notes(source, adapted)


def check_output(output: Path, force: bool) -> None:
    """Raise a UsageError for a folder that is there, unless it holds a model and may be replaced."""
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        if not existing_parent(output).is_dir():
            raise UsageError(f"--output {output} is below a file; give a folder")
        return
    if not force:
        raise UsageError(
            f"--output {output} is there already; give another folder, or --force to replace the model in it"
        )
    if not (output / "config.json").is_file():
        raise UsageError(f"--output {output} holds no model, so --force does not replace it; give another folder")


@contextmanager
def aside(output: Path) -> Iterator[Path]:
    """The place of a new folder until it is whole; then it gets its name, and the old one is removed."""
    output = output.absolute()
    temporary, old = (output.with_name(f".{output.name}.{end}") for end in ("tmp", "old"))
    make_folder(output.parent)
    remove(temporary)
    try:
        yield temporary
        for path in [*sorted(temporary.rglob("*")), temporary]:
            sync(path)
        if output.exists():
            remove(old)
            move(output, old)
        try:
            move(temporary, output)
        except OSError:
            if old.exists():
                move(old, output)
            raise
        sync(output.parent)
    finally:
        remove(temporary)
    remove(old)


def merged(base: str, adapters: Path) -> CausalModel:
    """The base model with LoRA adapters added to its weights, in float32."""
    model = load_adapters(load_model(base), adapters)
    with loading(str(adapters), "adapters"):
        whole: CausalModel = model.merge_and_unload(safe_merge=True)  # type: ignore[attr-defined]
    return whole


def cast(model: CausalModel, dtype: str, path: Path) -> CausalModel:
    """The model in a dtype, but for what its family always computes in float32.

    Raises a DataError where a weight is beyond the largest number of the dtype.
    """
    names = ["_keep_in_fp32_modules_strict", *(["_keep_in_fp32_modules"] if dtype == "float16" else [])]
    kept = [part for name in names for part in getattr(model, name, None) or ()]
    tensors = [*as_module(model).named_parameters(), *as_module(model).named_buffers()]
    for name, x in tensors:
        if x.is_floating_point() and not any(re.search(rf"(^|\.){re.escape(part)}(\.|$)", name) for part in kept):
            x.data = x.data.to(DTYPES[dtype])
            if not torch.isfinite(x).all():
                raise DataError(f"{name} of {path} has weights too large for {dtype}; use --dtype bfloat16 or float32")
    return model


def without_places(folder: Path) -> None:
    """Take out of the configurations where on this machine the model was found."""
    for file in (folder / name for name in ("config.json", "tokenizer_config.json", "generation_config.json")):
        if file.is_file():
            table = json.loads(file.read_text(encoding="utf-8"))
            kept = {key: value for key, value in table.items() if key not in PLACES}
            file.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _notes(source: Source, adapted: bool) -> list[str]:
    """What a user has to know of the export."""
    run = source.path.parent.parent
    if adapted and is_run(run) and SavedRun.read(run).setting("model.quantization"):
        return [
            "the adapters were trained on weights in 4 bits and are now merged into the whole ones, so log-probs "
            "differ a little from those of the run"
        ]
    return []
