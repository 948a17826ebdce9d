"""The recipe: a TOML file whose every key is also a command-line option (`--train.lr 1e-5`). Frozen and validated.

Unknown keys name the nearest known one; sizes that cannot work are refused here, with the arithmetic, before anything
loads.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Literal, get_origin

import tomli_w
from pydantic import BaseModel, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from sieverl.errors import UsageError, first_line
from sieverl.options import comma_separated, key_values, parse_value
from sieverl.recipe.names import meant
from sieverl.recipe.shipped import find
from sieverl.recipe.tables import (
    Alarms,
    Axes,
    Checkpoint,
    Data,
    Distributed,
    Evaluate,
    Model,
    Rollout,
    Table,
    Train,
    Verify,
)
from sieverl.types import JsonObject

# old key -> new key
RENAMED = {
    "axes.over": "axes.denominator",
    "axes.penalty_over": "axes.penalty_denominator",
    "rollout.max_rows": "rollout.max_num_seqs",
}
RENAMED_VALUES = {"train.reference": {"start": "initial"}}
LARGEST = 2**63 - 1  # whole number of TOML
Overrides = Mapping[str, object]  # dotted key -> value, or text that is parsed to one


class Recipe(Table):
    """Everything that a run depends on."""

    algorithm: str = Field("reinforce_rej", description="a name of `sieverl algorithms`, or FILE.py:NAME")
    steps: int = Field(100, ge=0, description="steps of sampling and learning")
    seed: int = Field(0, ge=0, description="of the order of prompts and of sampling")
    dtype: Literal["float32", "bfloat16", "float64"] = Field(
        "float32", description="of computation; weights are float32"
    )
    threads: int = Field(0, ge=0, description="CPU threads of PyTorch; 0: its default")
    run_dir: str = Field("runs/run", description="where the run is kept; `train` names it after the recipe's file")
    model: Model = Model()
    data: Data = Data()
    verify: Verify = Verify()
    rollout: Rollout = Rollout()
    train: Train = Train()
    evaluate: Evaluate = Evaluate()
    distributed: Distributed = Distributed()
    checkpoint: Checkpoint = Checkpoint()
    alarms: Alarms = Alarms()
    axes: Axes = Axes()

    @property
    def chosen_axes(self) -> JsonObject:
        """The axes that the recipe changes, by name."""
        return self.axes.model_dump(exclude_none=True)

    @model_validator(mode="after")
    def _sizes(self) -> Recipe:
        prompts, minibatches = self.rollout.prompts, self.train.minibatches
        if minibatches > prompts:
            raise ValueError(
                f"train.minibatches = {minibatches} mini-batches cannot be cut from rollout.prompts = {prompts} "
                f"prompts; use at most {prompts}"
            )
        if self.model.lora.rank and self.dtype == "float64":
            raise ValueError("model.lora.rank and dtype = 'float64' do not go together; use float32 or bfloat16")
        self._quantization()
        if self.evaluate.every and not self.evaluate.source:
            raise ValueError(
                f"evaluate.every = {self.evaluate.every} has nothing to measure: set evaluate.source to held-out "
                "prompts, or leave evaluate.every out"
            )
        if self.evaluate.temperature == 0 and self.evaluate.samples > 1:
            raise ValueError(
                f"evaluate.temperature = 0 gives the same response evaluate.samples = {self.evaluate.samples} times; "
                "use evaluate.samples = 1 or a temperature above 0"
            )
        axes = self.axes
        if (axes.kl or axes.kl_limit is not None) and not axes.kl_coefficient:
            raise ValueError("axes.kl and axes.kl_limit change nothing without axes.kl_coefficient; set it above 0")
        if axes.penalty_denominator and not axes.kl_coefficient and not axes.entropy_coefficient:
            raise ValueError(
                "axes.penalty_denominator needs axes.kl_coefficient or axes.entropy_coefficient; set one above 0"
            )
        shared = self.distributed
        if shared.strategy != "fsdp" and (shared.shard_size or shared.cpu_offload):
            key = "shard_size" if shared.shard_size else "cpu_offload"
            raise ValueError(
                f"distributed.{key} is an option of sharding; set distributed.strategy = 'fsdp', or leave it out"
            )
        for key, value in _numbers(self.model_dump()):
            if isinstance(value, int) and not -LARGEST <= value <= LARGEST:
                raise ValueError(f"{key} is a number of over 64 bits; give a smaller one")
            if not math.isfinite(value):
                raise ValueError(f"{key} = {value} is not a finite number; give one, such as 1.0")
        return self

    def _quantization(self) -> None:
        """Raise a ValueError where quantised weights would have to be trained, sharded or given to another engine."""
        if self.model.quantization is None:
            return
        if not self.model.lora.rank:
            raise ValueError(
                "model.quantization = 'nf4' freezes the weights, and nothing is left to train; add model.lora.rank = 32"
            )
        if self.distributed.strategy != "replicated":
            raise ValueError(
                "model.quantization = 'nf4' packs weights in 4 bits, and sharding those is not supported; use "
                "distributed.strategy = 'replicated' (a quarter of the memory in each process)"
            )
        if self.rollout.staleness:
            raise ValueError(
                "model.quantization = 'nf4' and rollout.staleness do not go together: an engine in its own process "
                "would sample from unquantised weights; use rollout.staleness = 0"
            )
        if self.rollout.engine != "torch":
            raise ValueError(
                f"model.quantization = 'nf4' and rollout.engine = {self.rollout.engine!r} do not go together: only the "
                "built-in engine samples from the quantised weights that are trained on; use rollout.engine = 'torch'"
            )


def _numbers(table: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Every number with its dotted key, also inside tables and lists."""
    for key, value in table.items():
        for one in value if isinstance(value, list | tuple) else [value]:
            if isinstance(one, int | float):
                yield f"{prefix}{key}", one
            elif isinstance(one, Mapping):
                yield from _numbers(one, f"{prefix}{key}.")


def load(path: str | Path, overrides: Overrides | None = None) -> Recipe:
    """The recipe in a TOML file, or a shipped one by name, with dotted `overrides` on top.

    Raises a UsageError that names the key.
    """
    file = find(path)
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # a number of thousands of digits is a ValueError of another kind
        raise UsageError(f"{path} is not valid TOML: {first_line(error)}") from error
    return build(tables, overrides, str(path))


def build(tables: Mapping[str, object], overrides: Overrides | None = None, where: str = "recipe") -> Recipe:
    """A checked recipe from nested tables and dotted overrides.

    >>> build({"train": {"lr": 1e-5}}, {"rollout.samples": "4"}).rollout.samples
    4
    """
    merged: JsonObject = {k: dict(v) if isinstance(v, Mapping) else v for k, v in tables.items()}
    for key, value in (overrides or {}).items():
        _set(merged, key.replace("-", "_"), value)
    try:
        return Recipe.model_validate(merged)
    except ValidationError as error:
        given = {key.replace("-", "_") for key in overrides or {}}
        raise UsageError(_explain(error, where, given)) from error


def _set(tables: JsonObject, dotted: str, value: object) -> None:
    *path, last = dotted.split(".")
    for part in path:
        inner = tables.setdefault(part, {})
        if not isinstance(inner, dict):
            raise UsageError(f"--{dotted}: {part} is a value, not a table")
        tables[part] = inner = dict(inner)
        tables = inner
    tables[last] = _parsed(dotted, value) if isinstance(value, str) else value


def _parsed(dotted: str, text: str) -> object:
    """The value of an option: as TOML has it, and `a,b` for a list, `a=b,c=d` for a table."""
    kind = get_origin(next((field.annotation for name, field in keys() if name == dotted), None))
    value = parse_value(text)
    if isinstance(value, str) and kind is dict and "=" in text:
        return key_values(comma_separated(text), f"--{dotted}")
    if isinstance(value, str) and kind in (tuple, list) and "," in text:
        return [parse_value(part) for part in comma_separated(text)]
    return value


def keys(model: type[BaseModel] = Recipe, prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every dotted key with its field, in the order of the recipe."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from keys(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def _explain(error: ValidationError, where: str, given: Container[str] = ()) -> str:
    """The first fault of a recipe in a line; of an option in `given` that option is named, and not the file."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    parents = [".".join(map(str, first["loc"][:n])) for n in range(len(first["loc"]), 0, -1)]
    option = next((name for name in parents if name in given), None)
    where = where if option is None else f"--{option}"
    if first["type"] == "extra_forbidden" and key in RENAMED:
        return f"{where}: {key} is now called {RENAMED[key]}"
    if new := RENAMED_VALUES.get(key, {}).get(str(first["input"])):
        return f"{where}: {key} = {first['input']!r} is now called {new!r}"
    if first["type"] == "extra_forbidden":
        known = [name for name, _ in keys()]
        return f"{where}: there is no key {key!r}.{meant(key, known)} `sieverl train --help` lists them all"
    message = first["msg"].removeprefix("Value error, ")
    named = f"{key}: " if key and key != option else ""
    return f"{where}: {named}{message[:1].lower()}{message[1:]}" + (f" (got {_short(first['input'])})" if key else "")


def _short(value: object) -> str:
    """A value of the user's as it was given, if it is not too long for a message."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def to_toml(recipe: Recipe) -> str:
    """The resolved recipe as TOML; keys that are None are left out."""
    return tomli_w.dumps(_without_none(recipe.model_dump()))


def _without_none(table: Mapping[str, object]) -> dict[str, object]:
    return {k: _without_none(v) if isinstance(v, Mapping) else v for k, v in table.items() if v is not None}
