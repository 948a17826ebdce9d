"""The recipe: a TOML file whose every key is also a command-line option (`--train.lr 1e-5`). Frozen and validated.

Unknown keys name the nearest known one; sizes that cannot work are refused here, with the arithmetic, before anything
loads.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from sieverl.errors import UsageError, nearest
from sieverl.options import parse_value
from sieverl.types import JsonObject

# old key -> new key
RENAMED = {
    "axes.over": "axes.denominator",
    "axes.penalty_over": "axes.penalty_denominator",
    "rollout.max_rows": "rollout.max_num_seqs",
}
RENAMED_VALUES = {"train.reference": {"start": "initial"}}
Overrides = Mapping[str, object]  # dotted key -> value, or text that is parsed to one
Beta = Annotated[float, Field(ge=0, lt=1)]


class Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Lora(Table):
    """Train adapters only (PEFT). Rank 0 trains all weights."""

    rank: int = Field(0, ge=0)
    alpha: float = Field(16.0, gt=0)
    targets: str = Field("all-linear", min_length=1)


class Model(Table):
    """The model to start from."""

    path: str = Field("", description="Hugging Face directory or Hub id; empty: the model shipped with SieveRL")
    attention: str | None = Field(None, description="attention implementation of transformers; default: its own choice")
    device: str = Field("auto", description="auto, cpu or cuda")
    lora: Lora = Lora()


class Data(Table):
    """Where prompts come from and how the model sees them."""

    source: str = Field("", description="file, known name, Hub id or reasoning_gym:TASK")
    split: str = "train"
    columns: dict[str, str] = Field({}, description="which column is the prompt and which the answer")
    options: JsonObject = Field({}, description="options of the source, such as a reasoning-gym config")
    limit: int | None = Field(None, gt=0)
    template: Literal["chat", "plain", "auto"] = "chat"
    system: str | None = None
    suffix: str | None = None
    max_prompt_tokens: int = Field(1024, gt=0)
    overlong: Literal["error", "drop"] = Field("error", description="prompts longer than max_prompt_tokens")
    check_gold: int = Field(64, ge=0, description="gold answers checked before training; 0: none")


class Verify(BaseModel):
    """The verifier by name; the options of that verifier are keys of the same table."""

    model_config = ConfigDict(frozen=True, extra="allow")
    name: str = "math"
    workers: int = Field(2, gt=0)
    timeout_s: float = Field(5.0, gt=0)
    memory_mb: int = Field(1024, gt=0)
    graded: bool | None = Field(None, description="whether rewards are graded; by default decided from the rewards")
    correct_from: float = Field(1.0, description="the reward from which on a response counts as correct")

    @property
    def spec(self) -> JsonObject:
        """What `sieverl.verify.build` takes."""
        own = ("workers", "timeout_s", "memory_mb", "graded", *(["correct_from"] if self.correct_from == 1.0 else []))
        return {k: v for k, v in self.model_dump().items() if k not in own}


class Rollout(Table):
    """How responses are sampled."""

    prompts: int = Field(32, gt=0, description="prompts per step")
    samples: int = Field(8, gt=0, description="responses per prompt (n)")
    max_tokens: int = Field(512, gt=0)
    temperature: float = Field(1.0, gt=0)
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    max_num_seqs: int = Field(512, gt=0, description="responses decoded at the same time")
    engine: Literal["torch", "transformers"] = Field(
        "torch", description="built-in engine, or continuous batching of transformers (for GPUs)"
    )


class Train(Table):
    """How the policy is updated."""

    lr: float = Field(1e-6, gt=0)
    minibatches: int = Field(1, gt=0, description="optimiser steps per batch of rollouts")
    epochs: int = Field(1, gt=0, description="passes over the mini-batches")
    micro_batch_tokens: int = Field(16384, gt=0, description="tokens per forward and backward pass")
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_updates: int = Field(0, ge=0)
    min_lr_ratio: float = Field(0.0, ge=0, le=1)
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, ge=0, description="0 turns clipping off")
    old: Literal["learner", "engine"] = Field("learner", description="whose log-probs are the old ones of the ratio")
    reference: Literal["initial", "last"] = Field(
        "initial", description="the initial policy, or the one before this step"
    )
    mask_truncated: bool = Field(False, description="never train on truncated responses")


class Evaluate(Table):
    """Held-out evaluation, before training and every `every` steps."""

    every: int = Field(0, ge=0, description="steps between evaluations; 0 only before and after")
    name: str = "heldout"
    source: str = ""
    split: str = "test"
    columns: dict[str, str] = {}
    options: JsonObject = {}
    limit: int = Field(256, gt=0, description="prompts")
    samples: int = Field(4, gt=0, description="k of avg@k")
    temperature: float = Field(1.0, ge=0)
    kl_prompts: int = Field(32, ge=0, description="held-out prompts for the KL to the reference policy; 0 turns it off")


class Distributed(Table):
    """How several processes share the work; one process takes no notice."""

    strategy: Literal["replicated", "fsdp"] = Field("replicated", description="a whole model per rank, or sharded")
    cpu_offload: bool = Field(False, description="fsdp: parameters and optimiser state in CPU memory")


class Checkpoint(Table):
    """When checkpoints are written and how many are kept."""

    every: int = Field(50, ge=0, description="steps between checkpoints; 0 only at the end")
    keep: int = Field(2, gt=0)


class Alarms(Table):
    """When a run stops itself."""

    empty_steps: int = Field(20, ge=0, description="consecutive steps with nothing kept; 0: never")
    nonfinite_steps: int = Field(3, ge=0, description="consecutive steps with NaN or infinity; 0: never")
    engine_mismatch: float = Field(0.5, ge=0, description="mean |log-prob difference| in nats; 0: never")


class Axes(Table):
    """Axes of the algorithm that are replaced by name; see `sieverl algorithms`."""

    shape: Literal["signed", "zero_one", "overlong"] | None = None
    aggregate: Literal["sequence_mean", "token_mean", "constant_length"] | None = None
    denominator: Literal["sampled", "kept"] | None = None
    clip_low: float | None = None
    clip_high: float | None = None
    dual_clip: float | None = None
    kl: Literal["k1", "k2", "k3"] | None = None
    kl_coefficient: float | None = None
    kl_limit: float | None = None
    kl_in_reward: float | None = None
    entropy_coefficient: float | None = None
    penalty_denominator: Literal["kept", "sampled"] | None = None


class Recipe(Table):
    """Everything that a run depends on."""

    algorithm: str = "reinforce_rej"
    steps: int = Field(100, ge=0)
    seed: int = Field(0, ge=0)
    dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    threads: int = Field(0, ge=0, description="CPU threads of PyTorch; 0: its default")
    run_dir: str = "runs/run"
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
        for key, value in _numbers(self.model_dump()):
            if not math.isfinite(value):
                raise ValueError(f"{key} = {value} is not a finite number; give one, such as 1.0")
        return self


def _numbers(table: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Every float with its dotted key, also inside tables and lists."""
    for key, value in table.items():
        for one in value if isinstance(value, list | tuple) else [value]:
            if isinstance(one, float):
                yield f"{prefix}{key}", one
            elif isinstance(one, Mapping):
                yield from _numbers(one, f"{prefix}{key}.")


def load(path: str | Path, overrides: Overrides | None = None) -> Recipe:
    """The recipe in a TOML file with dotted `overrides` on top. Raises a UsageError that names the key."""
    file = Path(path)
    if not file.is_file():
        raise UsageError(f"there is no recipe {path}; `sieverl train RECIPE.toml` takes a TOML file")
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid TOML: {error}") from error
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
        raise UsageError(_explain(error, where)) from error


def _set(tables: JsonObject, dotted: str, value: object) -> None:
    *path, last = dotted.split(".")
    for part in path:
        inner = tables.setdefault(part, {})
        if not isinstance(inner, dict):
            raise UsageError(f"--{dotted}: {part} is a value, not a table")
        tables[part] = inner = dict(inner)
        tables = inner
    tables[last] = parse_value(value) if isinstance(value, str) else value


def keys(model: type[BaseModel] = Recipe, prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every dotted key with its field, in the order of the recipe."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from keys(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def _explain(error: ValidationError, where: str) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden" and key in RENAMED:
        return f"{where}: {key} is now called {RENAMED[key]}"
    if new := RENAMED_VALUES.get(key, {}).get(str(first["input"])):
        return f"{where}: {key} = {first['input']!r} is now called {new!r}"
    if first["type"] == "extra_forbidden":
        known = [name for name, _ in keys()]
        return f"{where}: there is no key {key!r}.{nearest(key, known)} `sieverl train --help` lists them all"
    message = first["msg"].removeprefix("Value error, ")
    return f"{where}: {key + ': ' if key else ''}{message[:1].lower()}{message[1:]}" + (
        f" (got {first['input']!r})" if key else ""
    )


def to_toml(recipe: Recipe) -> str:
    """The resolved recipe as TOML; keys that are None are left out."""
    return tomli_w.dumps(_without_none(recipe.model_dump()))


def _without_none(table: Mapping[str, object]) -> dict[str, object]:
    return {k: _without_none(v) if isinstance(v, Mapping) else v for k, v in table.items() if v is not None}
