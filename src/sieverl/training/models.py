"""The models of a run and the learner that trains them: policy, reference policy, critic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import torch

from sieverl.algorithms.algorithm import Algorithm
from sieverl.assets import model_place
from sieverl.distributed.fsdp import Sharding
from sieverl.distributed.world import World
from sieverl.engines.process import ProcessEngine
from sieverl.engines.protocol import Engine
from sieverl.engines.registry import ENGINES
from sieverl.errors import UsageError
from sieverl.learner.critic import ValueModel
from sieverl.learner.learner import Learner
from sieverl.model import families
from sieverl.model.files import check_ids
from sieverl.model.load import choose_device, load_model, load_policy, load_tokenizer
from sieverl.model.policy import Policy
from sieverl.recipe import Recipe
from sieverl.training.checks import on_policy
from sieverl.training.prompts import TrainingData
from sieverl.types import Tokenizer


def build_policy(recipe: Recipe, tokenizer: Tokenizer, data: TrainingData, found: Path | None) -> Policy:
    """The policy of the recipe, or of the checkpoint `found`, that takes every prompt of the data."""
    path, lora = model_place(recipe.model.path), recipe.model.lora if recipe.model.lora.rank else None
    device = choose_device(recipe.model.device)
    settings = recipe.model
    policy = load_policy(
        path, tokenizer, recipe.dtype, device, settings.attention, lora, recipe.seed, found, settings.quantization
    )
    policy = replace(policy, activation_checkpointing=recipe.distributed.activation_checkpointing)
    limit, why = families.longest(policy.causal.config)
    longest = max(map(len, data.train_tokens))
    if limit and longest + recipe.rollout.max_tokens > limit:
        raise UsageError(
            f"the longest prompt has {longest} tokens and rollout.max_tokens = {recipe.rollout.max_tokens}: together "
            f"{longest + recipe.rollout.max_tokens}, but the model takes {limit} ({why}); lower rollout.max_tokens or "
            "data.max_prompt_tokens"
        )
    check_ids(policy.causal, tokenizer, data.train_tokens)
    return policy


def shard(recipe: Recipe, policy: Policy, world: World) -> None:
    """Shard the policy over the ranks where the recipe says so; one process has nothing to shard with."""
    if recipe.distributed.strategy == "fsdp" and world.size > 1:
        policy.shard(Sharding(world.size, recipe.distributed.shard_size, recipe.distributed.cpu_offload))


def set_threads(recipe: Recipe) -> None:
    """The CPU threads of this process; where sampling runs beside training each has half of the default number."""
    if recipe.threads or recipe.rollout.staleness:
        torch.set_num_threads(recipe.threads or max(1, torch.get_num_threads() // 2))


def build_engine(recipe: Recipe, policy: Policy, world: World) -> Engine:
    """The engine that the recipe names; in a process of its own where it is to sample while the learner trains."""
    kind = ENGINES[recipe.rollout.engine]
    if recipe.rollout.staleness and kind.shares_weights:
        return ProcessEngine(partial(engine_with_own_weights, recipe))
    return kind.build(policy, recipe.rollout, world)


def engine_with_own_weights(recipe: Recipe) -> tuple[Policy, Engine]:
    """An engine and the initial policy from which it samples, for a process of its own."""
    set_threads(recipe)
    path, lora = model_place(recipe.model.path), recipe.model.lora if recipe.model.lora.rank else None
    device = choose_device(recipe.model.device)
    policy = load_policy(path, load_tokenizer(path), recipe.dtype, device, recipe.model.attention, lora, recipe.seed)
    return policy, ENGINES[recipe.rollout.engine].build(policy, recipe.rollout, World())


def initial_policy(recipe: Recipe, policy: Policy, world: World) -> Callable[[], Policy]:
    """A function that gives the reference policy, loaded when it is first asked for."""

    @cache
    def reference() -> Policy:
        if recipe.model.lora.rank:
            return replace(policy, adapters=False)
        model = load_model(model_place(recipe.model.path), recipe.dtype, str(policy.device))
        initial = Policy(model.requires_grad_(False), policy.tokenizer, policy.compute)
        shard(recipe, initial, world)
        return initial

    return reference


def build_learner(
    recipe: Recipe, algorithm: Algorithm, policy: Policy, reference: Callable[[], Policy], world: World
) -> Learner:
    """The learner, with a critic where the algorithm asks for one."""
    critic = None
    if algorithm.critic is not None:
        torch.manual_seed(recipe.seed)
        body = None
        if not algorithm.critic.shared:
            model = load_model(model_place(recipe.model.path), recipe.dtype, str(policy.device))
            again = recipe.distributed.activation_checkpointing
            body = Policy(model, policy.tokenizer, policy.compute, activation_checkpointing=again)
            shard(recipe, body, world)
        critic = ValueModel(algorithm.critic, policy, body)
    return Learner(
        policy,
        algorithm,
        recipe.train,
        temperature=recipe.rollout.temperature,
        total_updates=recipe.steps * recipe.train.minibatches * recipe.train.epochs,
        off_policy_engine=not on_policy(recipe),
        reference=reference,
        critic=critic,
        world=world,
    )
