"""The prompts of a run: read, without the held-out ones, rendered, and checked for length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from sieverl.data import Template, load_prompts
from sieverl.data.chat import render_all
from sieverl.engines.protocol import SamplingParams
from sieverl.errors import DataError, UsageError
from sieverl.model.load import stop_ids
from sieverl.model.policy import Policy
from sieverl.recipe import Data, Evaluate, Recipe
from sieverl.rollout.environment import PromptSet
from sieverl.types import Prompt, Tokenizer

Say = Callable[[str], None]


@dataclass(frozen=True)
class TrainingData:
    """The prompts of a run, and their token ids once they are rendered."""

    train: Sequence[Prompt]
    heldout: Sequence[Prompt]
    train_tokens: Sequence[Sequence[int]] = ()
    heldout_tokens: Sequence[Sequence[int]] = ()


def read_data(recipe: Recipe, say: Say) -> TrainingData:
    """The prompts of the recipe's source that are not held out, and the held-out ones."""
    if not recipe.data.source:
        raise UsageError("the recipe names no prompts: set data.source to a file, a known name or reasoning_gym:TASK")
    heldout = _read(recipe.evaluate) if recipe.evaluate.source else []
    prompts = _read(recipe.data)
    seen = {p.text for p in heldout}
    kept = [p for p in prompts if p.text not in seen]
    if len(kept) < len(prompts):
        say(f"{len(prompts) - len(kept)} of {len(prompts)} prompts are held out for evaluation and are not trained on")
    return TrainingData(kept, heldout)


def _read(table: Data | Evaluate) -> list[Prompt]:
    columns, options = table.columns or None, table.options
    return load_prompts(table.source, columns=columns, split=table.split, limit=table.limit, options=options)


def render_data(recipe: Recipe, data: TrainingData, tokenizer: Tokenizer, say: Say) -> TrainingData:
    """The same with token ids, as the model sees them; training prompts that are too long are refused or dropped."""
    settings, kept = recipe.data, list(data.train)
    template = Template(settings.template, settings.system, settings.suffix)
    tokens = render_all(tokenizer, kept, template)
    long = [i for i, t in enumerate(tokens) if len(t) > settings.max_prompt_tokens]
    if long and settings.overlong == "error":
        raise DataError(
            f"{settings.source}: prompt {kept[long[0]].id} has {len(tokens[long[0]])} tokens, and "
            f"data.max_prompt_tokens = {settings.max_prompt_tokens} ({len(long)} such prompts); raise it, or set "
            'data.overlong = "drop"'
        )
    if long:
        say(f"{len(long)} of {len(kept)} prompts have over {settings.max_prompt_tokens} tokens and are dropped")
        drop = set(long)
        kept = [p for i, p in enumerate(kept) if i not in drop]
        tokens = [t for i, t in enumerate(tokens) if i not in drop]
    if not kept:
        raise DataError(f"{settings.source}: no prompt is left to train on")
    return TrainingData(kept, data.heldout, tokens, render_all(tokenizer, data.heldout, template))


def prompt_sets(recipe: Recipe, data: TrainingData, policy: Policy) -> tuple[PromptSet, PromptSet | None]:
    """The prompts to train on and the held-out ones (None without any), each with its way of sampling and its seed."""
    rollout = recipe.rollout
    eos = stop_ids(policy.causal, policy.tokenizer)
    sampling = SamplingParams(rollout.max_tokens, eos, rollout.temperature, stop=rollout.stop)
    prompts = PromptSet(data.train, data.train_tokens, sampling, recipe.seed)
    if not data.heldout:
        return prompts, None
    sampling = replace(sampling, temperature=recipe.evaluate.temperature)
    return prompts, PromptSet(data.heldout, data.heldout_tokens, sampling, recipe.seed + 1)
