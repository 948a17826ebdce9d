"""From a recipe to a run: check everything that can be checked, load, and only then write the run directory."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from sieverl.algorithms.algorithm import Algorithm
from sieverl.assets import model_place
from sieverl.distributed.world import World, init_distributed
from sieverl.engines.builtin import supported_ways
from sieverl.files import check_writable
from sieverl.model.files import check_attention
from sieverl.model.load import choose_device, load_tokenizer
from sieverl.recipe import Recipe
from sieverl.rollout.environment import Environment
from sieverl.run_dir import manifest
from sieverl.run_dir.lock import Lock
from sieverl.training import checkpoint
from sieverl.training.about import describe
from sieverl.training.ahead import restore_queue
from sieverl.training.checks import build_pool, check_verifier, check_world, chosen_algorithm, left_out
from sieverl.training.memory import check_fits, with_halved
from sieverl.training.models import build_engine, build_learner, build_policy, initial_policy, set_threads, shard
from sieverl.training.prompts import Say, TrainingData, prompt_sets, read_data, render_data
from sieverl.training.resume import (
    Resume,
    check_same_data,
    check_same_grades,
    checkpoint_to_resume,
    open_run_dir,
)
from sieverl.training.sampler import Sampler
from sieverl.training.saver import Saver
from sieverl.training.shared import check_same_prompts, check_shared, prompts_digest
from sieverl.training.state import Run, State


def prepare(recipe: Recipe, resume: Resume = "auto", say: Say = print) -> Run:
    """Everything that a run needs, checked. Nothing is written before all of it has loaded.

    Raises a UsageError, DataError or CheckpointError for what cannot work.
    """
    with ExitStack() as undo:  # a start that fails leaves no worker behind
        run = _prepare(recipe, resume, say, undo)
        undo.pop_all()
    return run


class Checked(NamedTuple):
    """A recipe of which all was checked that needs no model, and what was read for that."""

    recipe: Recipe
    algorithm: Algorithm
    data: TrainingData
    world: World


def check(recipe: Recipe, resume: Resume, say: Say) -> Checked:
    """Check all that needs no model. Raises a UsageError or DataError for what cannot work."""
    recipe = with_halved(recipe, resume, say)
    algorithm = chosen_algorithm(recipe)
    check_verifier(recipe)
    check_attention(recipe.model.attention)
    choose_device(recipe.model.device)
    data = read_data(recipe, say)
    if line := left_out(recipe, algorithm):
        say(line)
    world = init_distributed()
    check_world(recipe, world)
    check_writable(Path(recipe.run_dir), "the run directory", "--run-dir")
    check_shared(Path(recipe.run_dir), world)
    check_same_prompts([*data.train, *data.heldout], world)
    check_fits(recipe, world)
    return Checked(recipe, algorithm, data, world)


def _prepare(recipe: Recipe, resume: Resume, say: Say, undo: ExitStack) -> Run:
    recipe, algorithm, data, world = check(recipe, resume, say)
    lock = Lock()
    undo.callback(lock.close)
    if world.rank == 0 and Path(recipe.run_dir).is_dir():
        lock.take(Path(recipe.run_dir))
    found = checkpoint_to_resume(recipe, resume, say if world.rank == 0 else lambda text: None)
    digests = {"train": prompts_digest(data.train), "heldout": prompts_digest(data.heldout)}
    set_threads(recipe)
    tokenizer = load_tokenizer(model_place(recipe.model.path))
    data = render_data(recipe, data, tokenizer, say)
    pool = undo.enter_context(build_pool(recipe, data.train))
    policy = build_policy(recipe, tokenizer, data, found)
    samplers = world.another() if recipe.rollout.staleness else world  # sampling has a thread of its own
    engine = build_engine(recipe, policy, samplers)
    if close := getattr(engine, "close", None):
        undo.callback(close)
    say(f"{policy.causal.config.model_type}: {supported_ways(policy)}")
    shard(recipe, policy, world)
    background = recipe.checkpoint.background
    saver = Saver(world.another() if background else world, background)
    reference = initial_policy(recipe, policy, world)
    learner = build_learner(recipe, algorithm, policy, reference, world)
    prompts, heldout = prompt_sets(recipe, data, policy)
    run = Run(
        recipe=recipe,
        algorithm=algorithm,
        policy=policy,
        reference=reference,
        learner=learner,
        environment=Environment(engine, pool, tokenizer, samplers),
        prompts=prompts,
        heldout=heldout,
        sampler=Sampler(concurrently=recipe.rollout.staleness > 0),
        saver=saver,
        state=State(data=digests),
        lock=lock,
        declared_graded=pool.graded() if recipe.verify.graded is None else recipe.verify.graded,
    )
    if found is not None:
        saved = manifest.load_state(found)
        run.state = State.of(saved, manifest.step_of(found))
        before, run.state.data = run.state.data, digests
        check_same_data(run, before)
        check_same_grades(run)
        with checkpoint.reading(found):
            checkpoint.restore(found, learner)
            restore_queue(run, saved.get("queue", []), checkpoint.load_queue(found))
        say(f"resuming {recipe.run_dir} at step {run.state.step} of {recipe.steps}")
    world.barrier()  # all have read the checkpoint, which may now get another name
    if world.rank == 0:
        open_run_dir(recipe, resume, found, lock, say)
        describe(run)
    world.barrier()
    return run
