"""TRL's GRPOConfig as a recipe: what several of its fields decide together. The fields are in trl_fields.py."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple

from sieverl.errors import UsageError
from sieverl.migrate.draft import Draft, Note, short
from sieverl.migrate.lora import adapters, reconcile
from sieverl.migrate.rules import Settings, apply_rules, as_number
from sieverl.migrate.tracking import trackers
from sieverl.migrate.trl_fields import FIELDS, OWN
from sieverl.migrate.trl_run import engine, evaluation, parallel, precision, sampling, saving
from sieverl.recipe import Recipe
from sieverl.types import JsonObject


class Loss(NamedTuple):
    """A `loss_type`: our aggregate, whether masked tokens leave its denominator, and how it differs (if it does)."""

    aggregate: str
    masks: bool = False
    differs: str = ""


LOSSES = {
    "grpo": Loss("sequence_mean"),
    "dapo": Loss("token_mean", masks=True),
    "dr_grpo": Loss("constant_length"),
    "bnpo": Loss(
        "token_mean", True, "its mean is over a micro-batch; here it is over the mini-batch, whatever its cuts"
    ),
    "cispo": Loss("token_mean", masks=True),
    "sapo": Loss("sequence_mean", False, f"soft gates are not built in; the recipe clips as GRPO does. {OWN}"),
    "luspo": Loss(
        "constant_length",
        False,
        "the same but for a factor of max_completion_length, which AdamW does not see and max_grad_norm does",
    ),
    "vespo": Loss("token_mean", True, f"gamma weights are not built in; the recipe clips as GRPO does. {OWN}"),
}
ADVANTAGES = {"group": "grpo", "none": "dr_grpo", True: "grpo", False: "dr_grpo"}
SCHEDULES = {
    "linear": "linear",
    "cosine": "cosine",
    "constant": "constant",
    "constant_with_warmup": "constant",
    "cosine_with_min_lr": "cosine",
}
CISPO_LIMIT = 5.0  # the largest weight of our cispo


@dataclasses.dataclass(frozen=True)
class Around:
    """What stands around a GRPOConfig: the processes that it is run with, and the rows of the data, if known."""

    processes: int = 1
    rows: int | None = None


def from_trl(
    config: object, *, model: str = "", data: str = "", peft_config: object = None, processes: int | None = None
) -> tuple[Recipe, list[Note]]:
    """A GRPOConfig of TRL 1.16, or a dict of its fields, as a recipe, and what has no counterpart there.

    `model`, `data` and `peft_config` are what a script gives to the GRPOTrainer. `processes` are those that the
    configuration is for, since TRL counts a batch for each of them. Raises a UsageError for values that cannot be.

    >>> recipe, notes = from_trl({"num_generations": 4, "learning_rate": 1e-5, "top_p": 0.9})
    >>> recipe.rollout.samples, recipe.train.lr, recipe.axes.aggregate, [note.name for note in notes]
    (4, 1e-05, 'token_mean', ['top_p', 'num_train_epochs'])
    """
    draft = Draft()
    if model:
        draft.set("model.path", model)
    if data:
        draft.set("data.source", data)
    if peft_config is not None:
        adapters(given_in(peft_config, {}), draft)
    world = processes or int(getattr(config, "world_size", 1) or 1)
    config_to_draft(given_in(config, {name: rule.default for name, rule in FIELDS.items()}), Around(world), draft)
    return draft.recipe(), draft.notes


def given_in(config: object, defaults: Mapping[str, object]) -> JsonObject:
    """The settings of a dict, or those of a dataclass that are not at their default."""
    if isinstance(config, Mapping):
        return {str(name): value for name, value in config.items()}
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        raise UsageError(f"a {type(config).__name__} is no configuration; give a GRPOConfig or a dict of its fields")
    found: JsonObject = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name, None)
        value = value.value if isinstance(value, Enum) else value
        made = field.default_factory() if field.default_factory is not dataclasses.MISSING else None
        own = made if field.default is dataclasses.MISSING else field.default
        if value != defaults.get(field.name, own) and isinstance(value, str | int | float | list | tuple | dict | set):
            found[field.name] = sorted(value) if isinstance(value, set) else value
    return found


def config_to_draft(given: Mapping[str, object], around: Around, draft: Draft) -> None:
    """Put the settings of a GRPOConfig into `draft`."""
    typed = {name: as_number(FIELDS, name, value, "TRL") for name, value in given.items()}
    settings = Settings(FIELDS, typed, "TRL")
    apply_rules(settings, draft)
    updates = batches(settings, around, draft)
    total = length(settings, around, updates, draft)
    for part in (learning_rate, objective, penalties, engine, sampling, precision, parallel):
        part(settings, draft)
    warmup(settings, total, draft)
    saving(settings, updates, total, draft)
    evaluation(settings, updates, draft)
    trackers(settings, draft, "report_to", "project", "run_name")
    reconcile(draft)


def batches(settings: Settings, around: Around, draft: Draft) -> int:
    """Prompts and mini-batches of a step. Returns the optimiser steps of one of our steps."""
    samples, accumulate = settings.whole("num_generations"), settings.whole("gradient_accumulation_steps")
    micro = settings.whole("per_device_train_batch_size") * around.processes
    if min(samples, accumulate, micro) < 1:
        raise UsageError("num_generations, gradient_accumulation_steps and per_device_train_batch_size are at least 1")
    used = ["per_device_train_batch_size", "gradient_accumulation_steps", "num_generations"]
    generated = accumulate
    if settings["steps_per_generation"] is not None:
        generated = settings.whole("steps_per_generation")
        used.append("steps_per_generation")
    elif settings["generation_batch_size"] is not None:
        generated = max(1, settings.whole("generation_batch_size") // micro)
        used.append("generation_batch_size")
    span = max(generated, accumulate)
    responses = micro * span
    prompts, minibatches = math.ceil(responses / samples), min(span // accumulate, math.ceil(responses / samples))
    said = f"{settings.said(*used)}; {around.processes} process{'es' if around.processes > 1 else ''}"
    draft.set("rollout.prompts", prompts, said)
    if minibatches > 1:
        draft.set("train.minibatches", minibatches, said)
    if responses % samples:
        draft.note(
            "per_device_train_batch_size",
            settings["per_device_train_batch_size"],
            f"{responses} responses of {around.processes} process(es) are not whole groups of {samples}; the recipe "
            f"has {prompts} prompts. `sieverl init --processes N` counts more processes",
        )
    if minibatches * accumulate != span:
        draft.note(
            used[-1],
            settings[used[-1]],
            f"mini-batches are cut from whole prompts; the recipe has {minibatches} of them",
        )
    return minibatches * settings.whole("num_iterations")


def length(settings: Settings, around: Around, updates: int, draft: Draft) -> int | None:
    """The steps of the run. Returns its optimiser steps, where they are known."""
    asked = settings.number("max_steps")
    if asked > 0:
        steps = math.ceil(asked / updates)
        draft.set("steps", steps, f"{settings.said('max_steps')}, {updates} optimiser steps in a step")
        return steps * updates
    epochs, prompts = settings.number("num_train_epochs"), int(str(draft.values["rollout.prompts"]))
    if around.rows:
        steps = max(1, math.ceil(epochs * around.rows / prompts))
        draft.set("steps", steps, f"{settings.said('num_train_epochs')}: x {around.rows} rows / {prompts} prompts")
        return steps * updates
    draft.note("num_train_epochs", epochs, f"ours counts steps: set steps to {epochs:g} x rows of the data / {prompts}")
    return None


def learning_rate(settings: Settings, draft: Draft) -> None:
    """Schedule and AdamW."""
    name, more = settings["lr_scheduler_type"], settings["lr_scheduler_kwargs"]
    schedule = SCHEDULES.get(str(name))
    if schedule is None:
        draft.note("lr_scheduler_type", name, "train.schedule is constant, linear or cosine; the recipe has linear")
    draft.set("train.schedule", schedule or "linear", settings.said("lr_scheduler_type"))
    for key, value in more.items() if isinstance(more, Mapping) else ():
        if key == "min_lr_rate":
            draft.set("train.min_lr_ratio", value, f"lr_scheduler_kwargs {key} = {short(value)}")
        else:
            draft.note(f"lr_scheduler_kwargs.{key}", value, "train.min_lr_ratio is the one option of a schedule")
    betas = settings.number("adam_beta1"), settings.number("adam_beta2")
    if betas != (0.9, 0.999):
        draft.set("train.betas", list(betas), settings.said("adam_beta1", "adam_beta2"))


def warmup(settings: Settings, total: int | None, draft: Draft) -> None:
    """Optimiser steps of the warm-up, which may be a share of all."""
    name = "warmup_ratio" if settings["warmup_ratio"] else "warmup_steps"
    asked = settings.number(name)
    if not asked:
        return
    share = asked < 1 or name == "warmup_ratio"
    if share and total is None:
        draft.note(name, asked, "a share of the optimiser steps, which are not known; set train.warmup_updates")
        return
    draft.set("train.warmup_updates", math.ceil(asked * (total or 0)) if share else int(asked), settings.said(name))


def objective(settings: Settings, draft: Draft) -> None:
    """The algorithm and its axes: advantage, ratio, clip and aggregate."""
    kind, level, scale = (settings[name] for name in ("loss_type", "importance_sampling_level", "scale_rewards"))
    loss = LOSSES.get(str(kind))
    if loss is None:
        raise UsageError(f"loss_type = {short(kind)} is none of TRL's: {', '.join(LOSSES)}")
    ratio = "gspo" if level == "sequence" or kind == "luspo" else ""
    weight = "cispo" if kind == "cispo" else ""
    advantage = ADVANTAGES.get(scale if isinstance(scale, bool) else str(scale))
    draft.set(
        "algorithm",
        weight or ratio or advantage or "grpo",
        settings.said("scale_rewards", "importance_sampling_level", "loss_type"),
    )
    if advantage is None:
        draft.note("scale_rewards", scale, f"the std of a group or none; the recipe has that of the group. {OWN}")
    elif advantage != "grpo" and (ratio or weight):
        value = f"replace({weight or ratio}, advantage=group_centred)"
        draft.note(
            "scale_rewards", scale, f"{weight or ratio} divides by the std; without it: `mine = {value}` in a file"
        )
    if loss.differs:
        draft.note("loss_type", kind, loss.differs)
    if weight and ratio:
        draft.note("importance_sampling_level", level, f"cispo has one weight for each token; {OWN}")
    draft.set("axes.aggregate", loss.aggregate, settings.said("loss_type"))
    if settings["mask_truncated_completions"]:
        draft.set("train.mask_truncated", True, settings.said("mask_truncated_completions"))
        if loss.masks:
            draft.set("axes.denominator", "kept", "their tokens are not counted in the mean either")
    clip(settings, bool(weight), draft)


def clip(settings: Settings, weight: bool, draft: Draft) -> None:
    """How far the ratio may go."""
    low, high = settings["epsilon"], settings["epsilon_high"]
    high, name = (low, "epsilon") if high is None else (high, "epsilon_high")
    if weight:
        if high != CISPO_LIMIT:
            value = "replace(cispo, objective=ClippedWeight(high=LIMIT - 1))"
            why = f"the largest weight is {CISPO_LIMIT:g} in cispo here; another: `mine = {value}` in a file of yours"
            draft.note(name, high, why)
        return
    draft.set("axes.clip_low", low, settings.said("epsilon"))
    draft.set("axes.clip_high", high, settings.said(name))
    if settings["delta"] is not None:
        draft.set("axes.dual_clip", settings.number("delta"), settings.said("delta"))


def penalties(settings: Settings, draft: Draft) -> None:
    """KL to the reference, and the entropy bonus."""
    if settings.number("beta"):
        draft.set("axes.kl_coefficient", settings["beta"], settings.said("beta"))
        draft.set(
            "axes.kl", "k2" if settings["use_bias_correction_kl"] else "k3", settings.said("use_bias_correction_kl")
        )
    if settings.number("entropy_coef"):
        draft.set("axes.entropy_coefficient", settings["entropy_coef"], settings.said("entropy_coef"))
