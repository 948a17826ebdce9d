"""What the user writes: a TOML file, every key of it also an option (`--train.lr 1e-5`). Frozen, checked, complete.

Unknown keys name the nearest known one; sizes that cannot work are refused here, with the arithmetic, before anything
loads.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sieverl.errors import UsageError, nearest
from sieverl.options import parse_value

# keys of earlier versions
RENAMED = {
    "axes.over": "axes.denominator",
    "axes.penalty_over": "axes.penalty_denominator",
    "rollout.max_rows": "rollout.max_num_seqs",
}
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

    path: str = Field("", description="Hugging Face directory or Hub id; empty is the model shipped with SieveRL")
    attention: str | None = Field(None, description="attention implementation of transformers; by default its choice")
    device: str = Field("auto", description="auto, cpu or cuda")
    lora: Lora = Lora()


class Data(Table):
    """Where prompts come from and how the model sees them."""

    source: str = Field("", description="file, known name, Hub id or reasoning_gym:TASK")
    split: str = "train"
    columns: dict[str, str] = Field({}, description="column of each of prompt, answer")
    options: dict[str, Any] = Field({}, description="options of the source, such as a reasoning-gym config")
    limit: int | None = Field(None, gt=0)
    template: Literal["chat", "plain", "auto"] = "chat"
    system: str | None = None
    suffix: str | None = None
    max_prompt_tokens: int = Field(1024, gt=0)
    overlong: Literal["error", "drop"] = Field("error", description="what to do with prompts over max_prompt_tokens")
    check_gold: int = Field(64, ge=0, description="how many gold answers must verify before training")


class Verify(BaseModel):
    """The verifier by name; its own options stand beside the name."""

    model_config = ConfigDict(frozen=True, extra="allow")
    name: str = "math"
    workers: int = Field(2, gt=0)
    timeout_s: float = Field(5.0, gt=0)
    memory_mb: int = Field(1024, gt=0)
    graded: bool | None = Field(None, description="rewards mean more than right and wrong; by default as found out")
    correct_from: float = Field(1.0, description="a reward from here on is correct, where a number decides that")

    @property
    def spec(self) -> dict[str, Any]:
        """What `sieverl.verify.build` takes."""
        own = ("workers", "timeout_s", "memory_mb", "graded", *(["correct_from"] if self.correct_from == 1.0 else []))
        return {k: v for k, v in self.model_dump().items() if k not in own}


class Rollout(Table):
    """How responses are sampled."""

    prompts: int = Field(32, gt=0, description="prompts a step")
    samples: int = Field(8, gt=0, description="responses a prompt (n)")
    max_tokens: int = Field(512, gt=0)
    temperature: float = Field(1.0, gt=0)
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    max_num_seqs: int = Field(512, gt=0, description="responses decoded at a time")
    engine: Literal["torch", "transformers"] = Field(
        "torch", description="built in, or continuous batching of transformers (for GPUs)"
    )


class Train(Table):
    """How the policy is updated."""

    lr: float = Field(1e-6, gt=0)
    minibatches: int = Field(1, gt=0, description="optimiser steps a batch of rollouts; a partition of the prompts")
    epochs: int = Field(1, gt=0, description="passes over the mini-batches")
    micro_batch_tokens: int = Field(16384, gt=0, description="tokens computed at a time, forward and backward")
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_updates: int = Field(0, ge=0)
    min_lr_ratio: float = Field(0.0, ge=0, le=1)
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, ge=0, description="0 turns clipping off")
    old: Literal["learner", "engine"] = Field("learner", description="whose log-probs the ratio refers to")
    reference: Literal["initial", "last"] = Field("initial", description="initial policy, or that before this step")
    mask_truncated: bool = Field(False, description="never train on truncated responses")


class Evaluate(Table):
    """Held-out evaluation, before training and every so many steps."""

    every: int = Field(0, ge=0, description="steps between evaluations; 0 only before and after")
    name: str = "heldout"
    source: str = ""
    split: str = "test"
    columns: dict[str, str] = {}
    options: dict[str, Any] = {}
    limit: int = Field(256, gt=0, description="prompts")
    samples: int = Field(4, gt=0, description="k of avg@k")
    temperature: float = Field(1.0, ge=0)
    kl_prompts: int = Field(32, ge=0, description="held-out prompts for the KL to the reference policy; 0 turns it off")


class Checkpoint(Table):
    """What lasts."""

    every: int = Field(50, ge=0, description="steps between checkpoints; 0 only at the end")
    keep: int = Field(2, gt=0)


class Alarms(Table):
    """When a run stops itself instead of wasting more."""

    empty_steps: int = Field(20, ge=0, description="steps in a row with nothing kept; 0 never")
    nonfinite_steps: int = Field(3, ge=0, description="steps in a row with NaN or infinity in the update; 0 never")
    engine_mismatch: float = Field(0.5, ge=0, description="mean |log-prob gap| in nats; 0 never")


class Axes(Table):
    """Choices of the algorithm replaced by name; see `sieverl algorithms`."""

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
    """Everything a run depends on."""

    algorithm: str = "reinforce_rej"
    steps: int = Field(100, ge=0)
    seed: int = Field(0, ge=0)
    dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    threads: int = Field(0, ge=0, description="CPU threads of PyTorch; 0 is its choice")
    run_dir: str = "runs/run"
    model: Model = Model()
    data: Data = Data()
    verify: Verify = Verify()
    rollout: Rollout = Rollout()
    train: Train = Train()
    evaluate: Evaluate = Evaluate()
    checkpoint: Checkpoint = Checkpoint()
    alarms: Alarms = Alarms()
    axes: Axes = Axes()

    @property
    def chosen_axes(self) -> dict[str, Any]:
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
                f"evaluate.temperature = 0 gives evaluate.samples = {self.evaluate.samples} times the same response; "
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
                raise ValueError(f"{key} = {value} is no finite number; give one, such as 1.0")
        return self


def _numbers(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Every float with its dotted key, in tables and lists too."""
    for key, value in table.items():
        for one in value if isinstance(value, list | tuple) else [value]:
            if isinstance(one, float):
                yield f"{prefix}{key}", one
            elif isinstance(one, Mapping):
                yield from _numbers(one, f"{prefix}{key}.")


def load(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe in a TOML file with dotted `overrides` on top. Raises a UsageError that names the key."""
    file = Path(path)
    if not file.is_file():
        raise UsageError(f"there is no recipe {path}; `sieverl train RECIPE.toml` takes a TOML file")
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid TOML: {error}") from error
    return build(tables, overrides, str(path))


def build(tables: Mapping[str, Any], overrides: Mapping[str, Any] | None = None, where: str = "recipe") -> Recipe:
    """A checked recipe from nested tables and dotted overrides.

    >>> build({"train": {"lr": 1e-5}}, {"rollout.samples": "4"}).rollout.samples
    4
    """
    merged: dict[str, Any] = {k: dict(v) if isinstance(v, Mapping) else v for k, v in tables.items()}
    for key, value in (overrides or {}).items():
        _set(merged, key.replace("-", "_"), value)
    try:
        return Recipe.model_validate(merged)
    except ValidationError as error:
        raise UsageError(_explain(error, where)) from error


def _set(tables: dict[str, Any], dotted: str, value: Any) -> None:
    *path, last = dotted.split(".")
    for part in path:
        inner = tables.setdefault(part, {})
        if not isinstance(inner, dict):
            raise UsageError(f"--{dotted}: {part} is a value, not a table")
        tables[part] = inner = dict(inner)
        tables = inner
    tables[last] = parse_value(value) if isinstance(value, str) else value


def keys(model: type[BaseModel] = Recipe, prefix: str = "") -> Iterator[tuple[str, Any]]:
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


def _without_none(table: Mapping[str, Any]) -> dict[str, Any]:
    return {k: _without_none(v) if isinstance(v, Mapping) else v for k, v in table.items() if v is not None}
