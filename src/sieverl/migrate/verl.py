"""verl's settings as a recipe: what several of them decide together. The settings are in verl_fields.py."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from sieverl.errors import UsageError
from sieverl.migrate.draft import Draft, Note, Source, flat, short
from sieverl.migrate.rules import Settings, apply_rules, as_number
from sieverl.migrate.verl_fields import ACTOR, FIELDS, MODEL, OWN
from sieverl.migrate.verl_run import engine, evaluation, learning_rate, parallel, rewards, saving
from sieverl.recipe import Recipe
from sieverl.types import JsonObject


class Choice(NamedTuple):
    """What a value of verl's is here, and how it differs (if it does)."""

    ours: str
    differs: str = ""


NO_CLIP = "ours is the plain policy gradient, and verl's clips the ratio as GRPO does"
NEAREST = f"it is not built in; the recipe has the nearest one. {OWN}"
ESTIMATORS = {
    "gae": Choice("ppo"),
    "grpo": Choice("grpo"),
    "grpo_vectorized": Choice("grpo"),
    "rloo": Choice("rloo", NO_CLIP),
    "rloo_vectorized": Choice("rloo", NO_CLIP),
    "remax": Choice("remax", NO_CLIP),
    "reinforce_plus_plus": Choice("reinforce_pp", "verl whitens over tokens, and ours over responses"),
    "reinforce_plus_plus_baseline": Choice("dr_grpo", f"whitening after the group's mean is not built in. {OWN}"),
    "grpo_passk": Choice("grpo", NEAREST),
    "gdpo": Choice("grpo", NEAREST),
    "opo": Choice("dr_grpo", NEAREST),
    "gpg": Choice("dr_grpo", NEAREST),
    "optimal_token_baseline": Choice("ppo", NEAREST),
    "tir_optimal_token_baseline": Choice("ppo", NEAREST),
}
LOSS_MODES = {"gspo": "gspo", "cispo": "cispo"}
AGGREGATES = {
    "token-mean": Choice("token_mean"),
    "seq-mean-token-mean": Choice("sequence_mean"),
    "seq-mean-token-sum-norm": Choice("constant_length"),
    "seq-mean-token-sum": Choice(
        "constant_length",
        "the same but for a factor of max_response_length, which AdamW does not see and train.max_grad_norm does",
    ),
    "token-sum": Choice("token_mean", "a sum depends on the size of the batch; the recipe has the mean"),
}
PENALTIES = {"k2": "k2", "mse": "k2", "k3": "k3", "low_var_kl": "k3", "k1": "k2", "kl": "k2", "abs": "k2", "full": "k2"}
ALIKE = ("k2", "mse", "k3", "low_var_kl")
KL_LIMIT = 10.0  # verl clamps k3 there


def from_verl(config: Mapping[str, object], *, adapter: str = "verl_reward.py") -> tuple[Recipe, list[Note]]:
    """verl's configuration, as a tree or with dotted names, as a recipe, and what has no counterpart there.

    A reward function of the configuration's is called through the file `adapter`, which `sieverl init --from` writes.

    >>> recipe, notes = from_verl({"data.train_batch_size": 64, "actor_rollout_ref.rollout.top_p": 0.9})
    >>> recipe.rollout.prompts, recipe.algorithm, [note.name for note in notes]
    (64, 'ppo', ['actor_rollout_ref.rollout.top_p', 'trainer.total_epochs'])
    """
    draft = Draft()
    config_to_draft(config, draft, adapter)
    return draft.recipe(), draft.notes


def config_to_draft(
    config: Mapping[str, object], draft: Draft, adapter: str, rows: Callable[[Draft], int | None] = lambda draft: None
) -> None:
    """Put verl's settings into `draft`; `rows` counts those of its data, where that can be read."""
    given = {name: as_number(FIELDS, name, value, "verl") for name, value in interpolated(flat(config)).items()}
    settings = Settings(FIELDS, {k: v for k, v in given.items() if not k.endswith("_target_")}, "verl")
    apply_rules(settings, draft)
    data(settings, draft)
    updates = batches(settings, draft)
    total = length(settings, updates, draft, rows(draft))
    objective(settings, draft)
    for part in (penalties, engine, parallel, saving, evaluation):
        part(settings, draft)
    learning_rate(settings, total, draft)
    rewards(settings, draft, adapter)


def interpolated(given: Mapping[str, object]) -> JsonObject:
    """`${a.b}` of OmegaConf as the value of a.b; what cannot be resolved stays as its source text."""
    out: JsonObject = {}
    for name, value in given.items():
        for _ in range(8):
            found = re.fullmatch(r"\$\{(?:oc\.select:)?([\w.]+)(?:,(.*))?\}", value) if isinstance(value, str) else None
            if not found:
                break
            value = given.get(found[1], Source(value) if found[2] is None else found[2])
        out[name] = Source(value) if isinstance(value, str) and "${" in value else value
    return out


def data(settings: Settings, draft: Draft) -> None:
    """The model, files, columns and limits."""
    for name, key in (("data.train_files", "data.source"), ("data.val_files", "evaluate.source")):
        if not settings.has(name):
            continue
        found = settings[name]
        files = found if isinstance(found, list) else [found]
        draft.set(key, str(files[0]) if files else "", name)
        if len(files) > 1:
            draft.note(name, files, f"one file or directory is read; the recipe has the first. Put all into {key}")
    if settings.has(f"{MODEL}.path"):
        draft.set("model.path", settings[f"{MODEL}.path"], f"{MODEL}.path")
    column = settings["data.prompt_key"]
    if column != "prompt":
        draft.set("data.columns", {"prompt": column}, settings.said("data.prompt_key"))
    for name, key in (("data.train_max_samples", "data.limit"), ("data.val_max_samples", "evaluate.limit")):
        if settings.number(name) > 0:
            draft.set(key, settings.whole(name), settings.said(name))
    if settings["data.filter_overlong_prompts"]:
        draft.set("data.overlong", "drop", settings.said("data.filter_overlong_prompts"))


def batches(settings: Settings, draft: Draft) -> int:
    """Mini-batches of a step. Returns the optimiser steps of one of our steps."""
    prompts, size = settings.whole("data.train_batch_size"), settings.whole(f"{ACTOR}.ppo_mini_batch_size")
    if min(prompts, size) < 1:
        raise UsageError("data.train_batch_size and ppo_mini_batch_size of verl are at least 1")
    minibatches = max(1, prompts // size)
    said = settings.said("data.train_batch_size", f"{ACTOR}.ppo_mini_batch_size")
    draft.set("train.minibatches", minibatches, said)
    if prompts > size and prompts % size:
        draft.note(
            f"{ACTOR}.ppo_mini_batch_size", size, f"does not divide {prompts}; the recipe has {minibatches} parts"
        )
    return minibatches * settings.whole(f"{ACTOR}.ppo_epochs")


def length(settings: Settings, updates: int, draft: Draft, rows: int | None) -> int | None:
    """The steps of the run. Returns its optimiser steps, where they are known."""
    if settings["trainer.total_training_steps"]:
        steps = settings.whole("trainer.total_training_steps")
        draft.set("steps", steps, settings.said("trainer.total_training_steps"))
        return steps * updates
    epochs, prompts = settings.number("trainer.total_epochs"), settings.whole("data.train_batch_size")
    if rows:
        steps = max(1, math.floor(rows / prompts)) * max(1, int(epochs))
        draft.set("steps", steps, f"{settings.said('trainer.total_epochs')}: x {rows} rows / {prompts} prompts")
        return steps * updates
    why = f"ours counts steps: set steps to {epochs:g} x rows of the data / {prompts}"
    draft.note("trainer.total_epochs", epochs, why)
    return None


def objective(settings: Settings, draft: Draft) -> None:
    """The algorithm and its axes."""
    estimator, mode = str(settings["algorithm.adv_estimator"]), str(settings[f"{ACTOR}.policy_loss.loss_mode"])
    if estimator not in ESTIMATORS:
        raise UsageError(f"algorithm.adv_estimator = {short(estimator)} is none of verl's: {', '.join(ESTIMATORS)}")
    chosen = ESTIMATORS[estimator]
    name = "dr_grpo" if chosen.ours == "grpo" and not settings["algorithm.norm_adv_by_std_in_grpo"] else chosen.ours
    name = LOSS_MODES.get(mode, name) if name == "grpo" else name
    if settings["algorithm.filter_groups.enable"] and name == "grpo":
        name = "dapo"
        draft.set("axes.shape", "signed", "without the penalty on length that is part of dapo here")
    draft.set("algorithm", name, settings.said("algorithm.adv_estimator", f"{ACTOR}.policy_loss.loss_mode"))
    if chosen.differs:
        draft.note("algorithm.adv_estimator", estimator, chosen.differs)
    if mode != "vanilla" and name != LOSS_MODES.get(mode):
        draft.note(f"{ACTOR}.policy_loss.loss_mode", mode, f"not built in with {name}; the recipe has vanilla. {OWN}")
    aggregate = AGGREGATES.get(str(settings[f"{ACTOR}.loss_agg_mode"]))
    if aggregate is None:
        mean = short(settings[f"{ACTOR}.loss_agg_mode"])
        raise UsageError(f"loss_agg_mode = {mean} is none of verl's: {', '.join(AGGREGATES)}")
    draft.set("axes.aggregate", aggregate.ours, settings.said(f"{ACTOR}.loss_agg_mode"))
    if aggregate.differs:
        draft.note(f"{ACTOR}.loss_agg_mode", settings[f"{ACTOR}.loss_agg_mode"], aggregate.differs)
    if name in ("rloo", "remax", "cispo"):
        return  # they clip no ratio
    for side in ("low", "high"):
        own = f"{ACTOR}.clip_ratio_{side}"
        ratio = own if settings.has(own) or not settings.has(f"{ACTOR}.clip_ratio") else f"{ACTOR}.clip_ratio"
        draft.set(f"axes.clip_{side}", settings[ratio], settings.said(ratio))
    if name != "gspo":
        draft.set("axes.dual_clip", settings[f"{ACTOR}.clip_ratio_c"], settings.said(f"{ACTOR}.clip_ratio_c"))


def penalties(settings: Settings, draft: Draft) -> None:
    """KL and entropy."""
    if settings[f"{ACTOR}.use_kl_loss"]:
        kind = str(settings[f"{ACTOR}.kl_loss_type"]).removesuffix("+")
        draft.set("axes.kl_coefficient", settings[f"{ACTOR}.kl_loss_coef"], settings.said(f"{ACTOR}.kl_loss_coef"))
        draft.set("axes.kl", PENALTIES.get(kind, "k2"), settings.said(f"{ACTOR}.kl_loss_type"))
        if PENALTIES.get(kind) == "k3":
            draft.set("axes.kl_limit", KL_LIMIT, "verl clamps it there")
        if kind not in ALIKE:
            draft.note(f"{ACTOR}.kl_loss_type", kind, "the recipe has k2, whose gradient is that of the reverse KL")
    if settings["algorithm.use_kl_in_reward"]:
        if draft.values["algorithm"] in ("ppo", "reinforce_pp"):
            coefficient = settings["algorithm.kl_ctrl.kl_coef"]
            draft.set("axes.kl_in_reward", coefficient, settings.said("algorithm.kl_ctrl.kl_coef"))
        else:
            draft.note("algorithm.use_kl_in_reward", True, "only for ppo and reinforce_pp; set axes.kl_coefficient")
    if settings.number(f"{ACTOR}.entropy_coeff"):
        coefficient = settings[f"{ACTOR}.entropy_coeff"]
        draft.set("axes.entropy_coefficient", coefficient, settings.said(f"{ACTOR}.entropy_coeff"))
