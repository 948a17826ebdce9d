"""From a recipe to a run: check everything that can be checked, load, and only then write the run directory."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch

from sieverl import checkpoint, families
from sieverl.algorithm import Algorithm
from sieverl.algorithms import get_algorithm
from sieverl.axes import inapplicable, with_axes
from sieverl.critic import ValueModel
from sieverl.data import Template, load_prompts, render
from sieverl.distributed import join
from sieverl.errors import CheckpointError, DataError, UsageError
from sieverl.files import write_text
from sieverl.gather import Source
from sieverl.learner import Learner
from sieverl.listing import describe
from sieverl.load_policy import choose_device, load_policy
from sieverl.loop import Run, State
from sieverl.metrics import MetricsLog
from sieverl.model import Policy
from sieverl.model_files import check_attention, check_ids, load_model, load_tokenizer, stop_ids
from sieverl.recipe import Recipe, load, to_toml
from sieverl.rollout.protocol import Engine, Sampling
from sieverl.rollout.torch_engine import TorchEngine, chosen_ways
from sieverl.rollout.transformers_engine import TransformersEngine
from sieverl.trial import try_out
from sieverl.types import Prompt
from sieverl.verify import Pool, check_gold, is_graded

BASE = Path(__file__).parent / "assets" / "base"
ENGINES: dict[str, Callable[[Policy, int], Engine]] = {"torch": TorchEngine, "transformers": TransformersEngine}
Resume = Literal["auto", "never", "must"]
MAY_CHANGE = ("steps", "run_dir", "checkpoint", "alarms")  # keys that a resumed run may set anew
ROUNDING = 0.01  # nats between two arithmetics in bfloat16, in the mean over a response
Say = Callable[[str], None]


def chosen_algorithm(recipe: Recipe) -> Algorithm:
    """The recipe's algorithm with its [axes], checked against the recipe's sizes."""
    algorithm = with_axes(get_algorithm(recipe.algorithm), _axes(recipe))
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
    if recipe.train.old == "engine" and _foreign(recipe) and clips and min(clips) < ROUNDING:
        raise UsageError(
            f"{recipe.algorithm} clips the ratio at {min(clips):g}, and train.old = 'engine' would take it to an "
            f"engine whose log-probs are up to {ROUNDING} off by rounding alone; use train.old = 'learner'"
        )
    try_out(algorithm, recipe.algorithm)
    return algorithm


def _foreign(recipe: Recipe) -> bool:
    """Whether the engine computes with other roundings than the learner, so that its terms are weighed."""
    return recipe.rollout.engine != "torch" or recipe.dtype == "bfloat16"


def _axes(recipe: Recipe) -> dict[str, Any]:
    return recipe.axes.model_dump(exclude_none=True)


def left_out(recipe: Recipe, algorithm: Algorithm) -> str:
    """The axes of the recipe that its algorithm has no use for, in one line; empty where there are none."""
    axes = [f"axes.{axis}" for axis in inapplicable(algorithm, _axes(recipe))]
    does, is_ = ("does", "is") if len(axes) == 1 else ("do", "are")
    which = f"{recipe.algorithm} ({describe(algorithm.objective)})"
    return f"{', '.join(axes)} {does} not apply to {which} and {is_} left out" if axes else ""


def prepare(recipe: Recipe, resume: Resume = "auto", say: Say = print) -> Run:
    """Everything a run needs, checked. Nothing is written before all of it has loaded."""
    with ExitStack() as undo:  # a start that fails leaves no worker behind
        run = _prepare(recipe, resume, say, undo)
        undo.pop_all()
    return run


def _prepare(recipe: Recipe, resume: Resume, say: Say, undo: ExitStack) -> Run:
    algorithm = chosen_algorithm(recipe)
    check_attention(recipe.model.attention)
    is_graded(recipe.verify.spec)  # refuses options that the verifier does not have
    _check_verifier_file(recipe.verify.name)
    device = choose_device(recipe.model.device)
    heldout, prompts = _read_prompts(recipe, say)
    if line := left_out(recipe, algorithm):
        say(line)
    run_dir = Path(recipe.run_dir)
    world = join()
    _check_writable(run_dir)
    found = None
    if resume != "never" and run_dir.exists():
        _check_same_recipe(recipe, run_dir)
        found = checkpoint.newest(run_dir / "checkpoints", must=resume == "must")
    elif resume == "must":
        raise CheckpointError(f"there is no run in {run_dir}, and --resume must asks for one")
    if recipe.threads:
        torch.set_num_threads(recipe.threads)

    path = recipe.model.path or str(BASE)
    tokenizer = load_tokenizer(path)
    prompts, tokens = _rendered(recipe, tokenizer, prompts, say)
    limits = recipe.verify
    pool = undo.enter_context(Pool(limits.spec, limits.workers, limits.timeout_s, limits.memory_mb))
    graded = pool.graded() if limits.graded is None else limits.graded
    _check_gold_answers(recipe, pool, prompts)

    lora = recipe.model.lora if recipe.model.lora.rank else None
    policy = load_policy(path, tokenizer, recipe.dtype, device, recipe.model.attention, lora, recipe.seed, found)
    _check_context(recipe, policy, tokens)
    check_ids(policy.causal, tokenizer, tokens)
    eos = stop_ids(policy.causal, tokenizer)
    size = recipe.rollout
    engine = ENGINES[size.engine](policy, size.max_rows)
    say(f"{policy.causal.config.model_type}: {chosen_ways(policy)}")
    sampling = Sampling(size.max_tokens, eos, size.temperature, stop=size.stop)
    source = Source(prompts, tokens, engine, pool, tokenizer, sampling, recipe.seed, world)
    held = None
    if heldout:
        template = Template(recipe.data.template, recipe.data.system, recipe.data.suffix)
        held_tokens = [render(tokenizer, p, template) for p in heldout]
        sampling = replace(sampling, temperature=recipe.evaluate.temperature)
        held = replace(source, prompts=heldout, tokens=held_tokens, sampling=sampling, seed=recipe.seed + 1)

    @cache
    def reference() -> Policy:
        if recipe.model.lora.rank:
            return replace(policy, adapters=False)
        return Policy(load_model(path, recipe.dtype, device).requires_grad_(False), tokenizer, policy.compute)

    critic = None
    if algorithm.critic is not None:
        torch.manual_seed(recipe.seed)
        own = (
            None
            if algorithm.critic.shared
            else Policy(load_model(path, recipe.dtype, device), tokenizer, policy.compute)
        )
        critic = ValueModel(algorithm.critic, policy, own)
    total = recipe.steps * recipe.train.minibatches * recipe.train.epochs
    learner = Learner(
        policy,
        algorithm,
        recipe.train,
        temperature=size.temperature,
        total_updates=total,
        foreign_engine=_foreign(recipe),
        reference=reference,
        critic=critic,
        world=world,
    )
    state = State()
    if found is not None:
        checkpoint.restore(found, learner)
        state = State.of(checkpoint.load_state(found))
        _check_same_grades(state, graded, pool, run_dir)
        say(f"resuming {run_dir} at step {state.step} of {recipe.steps}")
    if world.rank == 0:
        _open_run_dir(run_dir, recipe, resume, state.step if found else -1)
    world.barrier()
    return Run(recipe, run_dir, algorithm, policy, learner, engine, source, held, reference, state, graded)


# --- data -------------------------------------------------------------------------------------------


def _prompts(table: Any) -> list[Prompt]:
    return load_prompts(
        table.source, columns=table.columns or None, split=table.split, limit=table.limit, options=table.options
    )


def _read_prompts(recipe: Recipe, say: Say) -> tuple[list[Prompt], list[Prompt]]:
    """The held-out prompts, and those of the recipe's source that are not held out."""
    if not recipe.data.source:
        raise UsageError("the recipe names no prompts: set data.source to a file, a known name or reasoning_gym:TASK")
    heldout = _prompts(recipe.evaluate) if recipe.evaluate.source else []
    prompts = _prompts(recipe.data)
    seen = {p.text for p in heldout}
    kept = [p for p in prompts if p.text not in seen]
    if len(kept) < len(prompts):
        say(f"{len(prompts) - len(kept)} of {len(prompts)} prompts are held out for evaluation and are not trained on")
    return heldout, kept


def _rendered(
    recipe: Recipe, tokenizer: Any, prompts: Sequence[Prompt], say: Say
) -> tuple[list[Prompt], list[list[int]]]:
    """The prompts that are short enough, and their tokens."""
    data, kept = recipe.data, list(prompts)
    template = Template(data.template, data.system, data.suffix)
    tokens = [render(tokenizer, p, template) for p in kept]
    long = [i for i, t in enumerate(tokens) if len(t) > data.max_prompt_tokens]
    if long and data.overlong == "error":
        raise DataError(
            f"{data.source}: prompt {kept[long[0]].id} has {len(tokens[long[0]])} tokens, and data.max_prompt_tokens = "
            f'{data.max_prompt_tokens} ({len(long)} such prompts); raise it, or set data.overlong = "drop"'
        )
    if long:
        say(f"{len(long)} of {len(kept)} prompts have over {data.max_prompt_tokens} tokens and are dropped")
        drop = set(long)
        kept = [p for i, p in enumerate(kept) if i not in drop]
        tokens = [t for i, t in enumerate(tokens) if i not in drop]
    if not kept:
        raise DataError(f"{data.source}: no prompt is left to train on")
    return kept, tokens


def _check_verifier_file(name: str) -> None:
    """A file of the user's must be there; its workers open it only for a response that is not truncated."""
    source = name.rpartition(":")[0]
    if source.endswith(".py") and not Path(source).expanduser().is_file():
        raise UsageError(f"verify.name is {name!r}, and {source} is not a file; write FILE.py:NAME")


def _check_gold_answers(recipe: Recipe, pool: Pool, prompts: Sequence[Prompt]) -> None:
    """The gold answers of a sample of prompts must verify, or rewards mean nothing."""
    wanted = recipe.data.check_gold
    if not wanted:
        return
    chosen = prompts[:: max(1, len(prompts) // wanted)][:wanted]
    failures = check_gold(pool, recipe.verify.spec, [p.row for p in chosen])
    if failures:
        row, verdict = failures[0]
        raise DataError(
            f"{len(failures)} of {len(chosen)} gold answers do not verify with the verifier {recipe.verify.name!r}: "
            f"the first is {str(row.get('answer'))[:80]!r} ({verdict.status.value}); choose a verifier or options that "
            "accept it (docs/verifiers.md), clean the data, or set data.check_gold = 0"
        )


def _check_context(recipe: Recipe, policy: Policy, tokens: Sequence[Sequence[int]]) -> None:
    limit, why = families.longest(policy.causal.config)
    longest = max(map(len, tokens))
    if limit and longest + recipe.rollout.max_tokens > limit:
        raise UsageError(
            f"the longest prompt has {longest} tokens and rollout.max_tokens = {recipe.rollout.max_tokens}: together "
            f"{longest + recipe.rollout.max_tokens}, but the model takes {limit} ({why}); lower rollout.max_tokens or "
            "data.max_prompt_tokens"
        )


# --- run directory ----------------------------------------------------------------------------------


def _check_writable(run_dir: Path) -> None:
    parent = run_dir
    while not parent.exists():
        parent = parent.parent
    try:
        if not parent.is_dir():
            raise NotADirectoryError(f"{parent} is a file")
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError as error:
        raise UsageError(f"cannot write the run directory {run_dir}: {error}; choose another --run-dir") from error


def _check_same_recipe(recipe: Recipe, run_dir: Path) -> None:
    """A run directory holds one run: another recipe there is refused, key by key, once a step was made."""
    if _has_steps(run_dir) and (different := _difference(recipe, run_dir)):
        name, old, new = different
        raise UsageError(
            f"{run_dir} holds a run with {name} = {old!r}, not {new!r}; use another --run-dir, or --resume never to "
            "set the old one aside"
        )


def _difference(recipe: Recipe, run_dir: Path) -> tuple[str, Any, Any] | None:
    """The first key that the recipe in a run directory has otherwise, with its value there and here."""
    if not (run_dir / "recipe.toml").is_file():
        return None
    before, now = load(run_dir / "recipe.toml").model_dump(), recipe.model_dump()
    before["verify"].pop("graded"), now["verify"].pop("graded")  # compared with what was trained: _check_same_grades
    for key in now:
        if key in MAY_CHANGE or before[key] == now[key]:
            continue
        if not isinstance(now[key], dict):
            return key, before[key], now[key]
        inner = next(k for k in {**now[key], **before[key]} if before[key].get(k) != now[key].get(k))
        return f"{key}.{inner}", before[key].get(inner), now[key].get(inner)
    return None


def _has_steps(run_dir: Path) -> bool:
    """Whether a run got anywhere there: a checkpoint, even a damaged one, or a step in its metrics."""
    made = any(row["step"] > 0 for row in MetricsLog(run_dir / "metrics.jsonl").rows())
    return made or bool(checkpoint.steps(run_dir / "checkpoints"))


def _check_same_grades(state: State, graded: bool | None, pool: Pool, run_dir: Path) -> None:
    """What rewards mean must not change within a run."""
    if pool.check.graded is None and None not in (graded, state.graded) and graded != state.graded:
        took, says = ("as they are" if one else "as right or wrong" for one in (state.graded, graded))
        raise UsageError(
            f"{run_dir} was trained with rewards taken {took}, and verify.graded (or the function) now says {says}; "
            "use another --run-dir, or --resume never to set the old one aside"
        )


def _open_run_dir(run_dir: Path, recipe: Recipe, resume: Resume, step: int) -> None:
    """Make the directory, set an old run aside when asked to, forget metrics after the step that is resumed."""
    if resume == "never" and run_dir.exists() and any(run_dir.iterdir()):
        number = 1
        while (aside := run_dir.with_name(f"{run_dir.name}.old-{number}")).exists():
            number += 1
        os.replace(run_dir, aside)
    run_dir.mkdir(parents=True, exist_ok=True)
    if _difference(recipe, run_dir):  # one that made no step: what it logged is not this recipe's
        shutil.rmtree(run_dir / "rollouts", ignore_errors=True)
    write_text(run_dir / "recipe.toml", to_toml(recipe))
    MetricsLog(run_dir / "metrics.jsonl").rewind(step)
