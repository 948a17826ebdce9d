"""From a recipe to a run: check everything that can be checked, load, and only then write the run directory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch

from sieverl.algorithms.algorithm import Algorithm
from sieverl.algorithms.axes import inapplicable, with_axes
from sieverl.algorithms.describe import describe
from sieverl.algorithms.named import get_algorithm
from sieverl.algorithms.trial import try_out
from sieverl.assets import BASE
from sieverl.data import Template, load_prompts, render
from sieverl.distributed.world import World, init_distributed
from sieverl.engines.builtin import BuiltinEngine, supported_ways
from sieverl.engines.protocol import EngineClass, SamplingParams
from sieverl.engines.transformers import TransformersEngine
from sieverl.errors import DataError, UsageError
from sieverl.files import check_writable
from sieverl.learner.critic import ValueModel
from sieverl.learner.learner import Learner
from sieverl.model import families
from sieverl.model.files import check_attention, check_ids
from sieverl.model.load import choose_device, load_model, load_policy, load_tokenizer, stop_ids
from sieverl.model.policy import Policy
from sieverl.recipe import Data, Evaluate, Recipe
from sieverl.rollout.environment import Environment, PromptSet
from sieverl.run_dir import manifest
from sieverl.training import checkpoint
from sieverl.training.resume import Resume, check_same_grades, checkpoint_to_resume, open_run_dir
from sieverl.training.state import Run, State
from sieverl.types import Prompt, Tokenizer
from sieverl.verify import Pool, check_gold, is_graded

ENGINES: dict[str, EngineClass] = {"torch": BuiltinEngine, "transformers": TransformersEngine}
ROUNDING = 0.01  # nats between two arithmetics in bfloat16, in the mean over a response
Say = Callable[[str], None]


def prepare(recipe: Recipe, resume: Resume = "auto", say: Say = print) -> Run:
    """Everything that a run needs, checked. Nothing is written before all of it has loaded.

    Raises a UsageError, DataError or CheckpointError for what cannot work.
    """
    with ExitStack() as undo:  # a start that fails leaves no worker behind
        run = _prepare(recipe, resume, say, undo)
        undo.pop_all()
    return run


def _prepare(recipe: Recipe, resume: Resume, say: Say, undo: ExitStack) -> Run:
    algorithm = chosen_algorithm(recipe)
    _check_verifier(recipe)
    check_attention(recipe.model.attention)
    choose_device(recipe.model.device)
    data = read_data(recipe, say)
    if line := left_out(recipe, algorithm):
        say(line)
    world = init_distributed()
    check_writable(Path(recipe.run_dir), "the run directory", "--run-dir")
    found = checkpoint_to_resume(recipe, resume)
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    tokenizer = load_tokenizer(recipe.model.path or str(BASE))
    data = render_data(recipe, data, tokenizer, say)
    pool = undo.enter_context(build_pool(recipe, data.train))
    policy = build_policy(recipe, tokenizer, data, found)
    engine = ENGINES[recipe.rollout.engine](policy, recipe.rollout.max_num_seqs)
    say(f"{policy.causal.config.model_type}: {supported_ways(policy)}")
    shard(recipe, policy, world)
    reference = initial_policy(recipe, policy, world)
    learner = build_learner(recipe, algorithm, policy, reference, world)
    prompts, heldout = prompt_sets(recipe, data, policy)
    run = Run(
        recipe=recipe,
        algorithm=algorithm,
        policy=policy,
        reference=reference,
        learner=learner,
        environment=Environment(engine, pool, tokenizer, world),
        prompts=prompts,
        heldout=heldout,
        declared_graded=pool.graded() if recipe.verify.graded is None else recipe.verify.graded,
    )
    if found is not None:
        checkpoint.restore(found, learner)
        run.state = State.of(manifest.load_state(found))
        check_same_grades(run)
        say(f"resuming {recipe.run_dir} at step {run.state.step} of {recipe.steps}")
    if world.rank == 0:
        open_run_dir(recipe, resume, run.state.step if found else None)
    world.barrier()
    return run


# --- algorithm and verifier -------------------------------------------------------------------------


def chosen_algorithm(recipe: Recipe) -> Algorithm:
    """The recipe's algorithm with its [axes], checked against the recipe's sizes and tried on a toy batch."""
    algorithm = with_axes(get_algorithm(recipe.algorithm), recipe.chosen_axes)
    if "group" in algorithm.needs and recipe.rollout.samples < 2:
        raise UsageError(
            f"{recipe.algorithm} compares the responses of a prompt, and rollout.samples = {recipe.rollout.samples} "
            "gives groups of one; use rollout.samples = 2 or more"
        )
    if recipe.train.mask_truncated and algorithm.aggregate.unit == "pair":
        raise UsageError(
            f"train.mask_truncated would leave {recipe.algorithm} half pairs; raise rollout.max_tokens instead"
        )
    clips = [clip for name in ("low", "high") if (clip := getattr(algorithm.objective, name, None)) is not None]
    if recipe.train.old == "engine" and not _on_policy(recipe) and clips and min(clips) < ROUNDING:
        raise UsageError(
            f"{recipe.algorithm} clips the ratio at {min(clips):g}, and train.old = 'engine' would take it to an "
            f"engine whose log-probs are up to {ROUNDING} off by rounding alone; use train.old = 'learner'"
        )
    if recipe.distributed.strategy == "fsdp" and not ENGINES[recipe.rollout.engine].sharded:
        raise UsageError(
            f'rollout.engine = {recipe.rollout.engine!r} does not support distributed.strategy = "fsdp"; use "torch"'
        )
    if recipe.rollout.stop and not ENGINES[recipe.rollout.engine].stop_strings:
        raise UsageError(f'rollout.engine = {recipe.rollout.engine!r} does not support rollout.stop; use "torch"')
    try_out(algorithm, recipe.algorithm)
    return algorithm


def _on_policy(recipe: Recipe) -> bool:
    """Whether the engine's log-probs are the learner's own, so that they need no importance sampling."""
    return ENGINES[recipe.rollout.engine].on_policy(recipe.dtype)


def left_out(recipe: Recipe, algorithm: Algorithm) -> str:
    """The axes of the recipe that its algorithm has no use for, in one line; empty where there are none."""
    axes = [f"axes.{axis}" for axis in inapplicable(algorithm, recipe.chosen_axes)]
    does, is_ = ("does", "is") if len(axes) == 1 else ("do", "are")
    which = f"{recipe.algorithm} ({describe(algorithm.objective)})"
    return f"{', '.join(axes)} {does} not apply to {which} and {is_} left out" if axes else ""


def _check_verifier(recipe: Recipe) -> None:
    """Options that the verifier does not have, and a user's file that is not there, are refused before all else.

    Its workers open the file only for a response that is not truncated.
    """
    is_graded(recipe.verify.spec)
    name = recipe.verify.name
    source = name.rpartition(":")[0]
    if source.endswith(".py") and not Path(source).expanduser().is_file():
        raise UsageError(f"verify.name is {name!r}, and {source} is not a file; write FILE.py:NAME")


def build_pool(recipe: Recipe, prompts: Sequence[Prompt]) -> Pool:
    """The verifier's workers, once the gold answers of a sample of the prompts verify: else rewards mean nothing."""
    limits = recipe.verify
    pool = Pool(limits.spec, limits.workers, limits.timeout_s, limits.memory_mb)
    wanted = recipe.data.check_gold
    chosen = prompts[:: max(1, len(prompts) // wanted)][:wanted] if wanted else []
    try:
        failures = check_gold(pool, limits.spec, [p.row for p in chosen])
    except BaseException:
        pool.close()
        raise
    if failures:
        pool.close()
        row, verdict = failures[0]
        raise DataError(
            f"{len(failures)} of {len(chosen)} gold answers do not verify with the verifier {limits.name!r}: the first "
            f"is {str(row.get('answer'))[:80]!r} ({verdict.status.value}); choose a verifier or options that accept it "
            "(docs/verifiers.md), clean the data, or set data.check_gold = 0"
        )
    return pool


# --- data -------------------------------------------------------------------------------------------


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
    tokens = [render(tokenizer, p, template) for p in kept]
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
    return TrainingData(kept, data.heldout, tokens, [render(tokenizer, p, template) for p in data.heldout])


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


# --- policy and learner -----------------------------------------------------------------------------


def build_policy(recipe: Recipe, tokenizer: Tokenizer, data: TrainingData, found: Path | None) -> Policy:
    """The policy of the recipe, or of the checkpoint `found`, that takes every prompt of the data."""
    path, lora = recipe.model.path or str(BASE), recipe.model.lora if recipe.model.lora.rank else None
    device = choose_device(recipe.model.device)
    policy = load_policy(path, tokenizer, recipe.dtype, device, recipe.model.attention, lora, recipe.seed, found)
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
        policy.shard(world.size, recipe.distributed.cpu_offload)


def initial_policy(recipe: Recipe, policy: Policy, world: World) -> Callable[[], Policy]:
    """A function that gives the reference policy, loaded when it is first asked for."""

    @cache
    def reference() -> Policy:
        if recipe.model.lora.rank:
            return replace(policy, adapters=False)
        model = load_model(recipe.model.path or str(BASE), recipe.dtype, str(policy.device))
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
            model = load_model(recipe.model.path or str(BASE), recipe.dtype, str(policy.device))
            body = Policy(model, policy.tokenizer, policy.compute)
            shard(recipe, body, world)
        critic = ValueModel(algorithm.critic, policy, body)
    return Learner(
        policy,
        algorithm,
        recipe.train,
        temperature=recipe.rollout.temperature,
        total_updates=recipe.steps * recipe.train.minibatches * recipe.train.epochs,
        off_policy_engine=not _on_policy(recipe),
        reference=reference,
        critic=critic,
        world=world,
    )
