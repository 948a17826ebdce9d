"""The recipe: a TOML file whose every key is also a command-line option (`--train.lr 1e-5`). Frozen and validated.

Sizes that cannot work are refused here, with the arithmetic, before anything loads.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Literal

import tomli_w
from pydantic import BaseModel, Field, model_validator
from pydantic.fields import FieldInfo

from sieverl.recipe.tables import (
    Alarms,
    Axes,
    Checkpoint,
    Data,
    Distributed,
    Evaluate,
    JsonObject,
    Model,
    Rollout,
    Table,
    Trackers,
    Train,
    Verify,
)
from sieverl.text import storable

LARGEST = 2**63 - 1  # whole number of TOML


class Recipe(Table):
    """Everything that a run depends on.

    >>> from sieverl.recipe import build
    >>> build({"algorithm": "grpo"}, {"train.lr": 1e-5}).train.lr
    1e-05
    >>> Recipe(steps=-1)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    pydantic_core._pydantic_core.ValidationError: ...
    """

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
    trackers: Trackers = Trackers()
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
        for key, value in _leaves(self.model_dump()):
            if isinstance(value, str):
                if storable(value) != value:
                    raise ValueError(
                        f"{key} = {value!a} is no text in UTF-8, which recipe.toml could hold; write it anew"
                    )
                continue
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


def _leaves(table: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, float | str]]:
    """Every number and text with its dotted key, also inside tables and lists."""
    for key, value in table.items():
        for one in value if isinstance(value, list | tuple) else [value]:
            if isinstance(one, int | float | str):
                yield f"{prefix}{key}", one
            elif isinstance(one, Mapping):
                yield from _leaves(one, f"{prefix}{key}.")


def keys(model: type[BaseModel] = Recipe, prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every dotted key with its field, in the order of the recipe."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from keys(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def to_toml(recipe: Recipe) -> str:
    """The resolved recipe as TOML; keys that are None are left out."""
    return tomli_w.dumps(_without_none(recipe.model_dump()))


def _without_none(table: Mapping[str, object]) -> dict[str, object]:
    return {k: _without_none(v) if isinstance(v, Mapping) else v for k, v in table.items() if v is not None}
