"""From a recipe to a run: check everything that can be checked, load, and only then write the run directory."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from transformers.utils.logging import disable_progress_bar

from sieverl import checkpoint
from sieverl.algorithm import Algorithm
from sieverl.algorithms import get_algorithm
from sieverl.axes import with_axes
from sieverl.critic import ValueModel
from sieverl.data import Template, load_prompts, render
from sieverl.distributed import join
from sieverl.errors import CheckpointError, DataError, UsageError
from sieverl.files import write_text
from sieverl.gather import Source
from sieverl.learner import Learner
from sieverl.loop import Run, State
from sieverl.metrics import MetricsLog
from sieverl.model import DTYPES, Policy, load_model, load_tokenizer, stop_ids
from sieverl.recipe import Recipe, load, to_toml
from sieverl.rollout.protocol import Engine, Sampling
from sieverl.rollout.torch_engine import TorchEngine
from sieverl.rollout.transformers_engine import TransformersEngine
from sieverl.types import Prompt
from sieverl.verify import Pool, check_gold

BASE = Path(__file__).parent / "assets" / "base"
ENGINES: dict[str, Callable[[Policy, int], Engine]] = {"torch": TorchEngine, "transformers": TransformersEngine}
Resume = Literal["auto", "never", "must"]
MAY_CHANGE = ("steps", "run_dir", "checkpoint", "alarms")  # keys that a resumed run may set anew
Say = Callable[[str], None]


def chosen_algorithm(recipe: Recipe) -> Algorithm:
    """The recipe's algorithm with its [axes], checked against the recipe's sizes."""
    algorithm = with_axes(get_algorithm(recipe.algorithm), recipe.axes.model_dump(exclude_none=True))
    if "group" in algorithm.needs and recipe.rollout.samples < 2:
        raise UsageError(
            f"{recipe.algorithm} compares the responses of a prompt, and rollout.samples = {recipe.rollout.samples} "
            "gives groups of one; use rollout.samples = 2 or more"
        )
    if recipe.train.mask_truncated and algorithm.aggregate.unit == "pair":
        raise UsageError(
            f"train.mask_truncated would leave {recipe.algorithm} half pairs; raise rollout.max_tokens instead"
        )
    return algorithm


def prepare(recipe: Recipe, resume: Resume = "auto", say: Say = print) -> Run:
    """Everything a run needs, checked. Nothing is written before all of it has loaded; a failure leaves no worker."""
    with ExitStack() as undo:
        run = _prepare(recipe, resume, say, undo)
        undo.pop_all()  # from here on whoever has the run closes its pool
    return run


def _prepare(recipe: Recipe, resume: Resume, say: Say, undo: ExitStack) -> Run:
    disable_progress_bar()
    algorithm = chosen_algorithm(recipe)
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
    heldout = _prompts(recipe.evaluate, None, recipe.evaluate.limit) if recipe.evaluate.source else []
    prompts, tokens = _training_prompts(recipe, tokenizer, heldout, say)
    limits = recipe.verify.workers, recipe.verify.timeout_s, recipe.verify.memory_mb
    pool = undo.enter_context(Pool(recipe.verify.spec, *limits))
    graded = pool.graded() if recipe.verify.graded is None else recipe.verify.graded
    _check_gold_answers(recipe, pool, prompts)

    device = _device(recipe.model.device)
    policy = load_policy(recipe, path, device, found, tokenizer)
    _check_context(recipe, policy, tokens)
    eos = stop_ids(policy.causal, tokenizer)
    size = recipe.rollout
    engine = ENGINES[size.engine](policy, size.max_rows)
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
        foreign_engine=size.engine != "torch",
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


# --- model ------------------------------------------------------------------------------------------


def load_policy(recipe: Recipe, path: str, device: str, found: Path | None, tokenizer: Any) -> Policy:
    """The policy to train: the start model, or the checkpoint's; with LoRA adapters where the recipe asks for them."""
    lora = recipe.model.lora
    full = str(found) if found and not lora.rank else path
    model = load_model(full, recipe.dtype, device, recipe.model.attention)
    if lora.rank:
        from peft import LoraConfig, PeftModel, get_peft_model

        if found:
            model = PeftModel.from_pretrained(model, found, is_trainable=True)
        else:
            torch.manual_seed(recipe.seed)
            targets: Any = lora.targets if lora.targets == "all-linear" else lora.targets.split(",")
            config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=0.0, target_modules=targets)
            model = get_peft_model(model, config)
    policy = Policy(model, tokenizer, DTYPES[recipe.dtype])
    _check_head(policy, full)
    return policy


def _check_head(policy: Policy, path: str) -> None:
    """Our log-probs are made from hidden states and the output layer; a family with other last steps is refused."""
    ids = torch.arange(4, device=policy.device)[None] % policy.head.weight.shape[0]
    with torch.no_grad():
        ours, theirs = policy.logits(policy.hidden(ids)), policy.causal(input_ids=ids).logits
    if not torch.allclose(ours, theirs, atol=1e-3, rtol=1e-3):
        raise DataError(
            f"{path}: logits made from the last hidden states differ from the model's own by "
            f"{float((ours - theirs).abs().max()):.3g}; {type(policy.causal).__name__} is not supported"
        )


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"model.device = {name!r}, but PyTorch sees no GPU here; use auto or cpu")
    return name


def _check_context(recipe: Recipe, policy: Policy, tokens: Sequence[Sequence[int]]) -> None:
    limit = getattr(policy.causal.config, "max_position_embeddings", None)
    longest = max(map(len, tokens))
    if limit and longest + recipe.rollout.max_tokens > limit:
        raise UsageError(
            f"the longest prompt has {longest} tokens and rollout.max_tokens = {recipe.rollout.max_tokens}: together "
            f"{longest + recipe.rollout.max_tokens}, but the model takes {limit}; lower rollout.max_tokens or "
            "data.max_prompt_tokens"
        )


# --- data -------------------------------------------------------------------------------------------


def _prompts(table: Any, limit_of: int | None, limit: int | None = None) -> list[Prompt]:
    return load_prompts(
        table.source, columns=table.columns or None, split=table.split, limit=limit or limit_of, options=table.options
    )


def _training_prompts(
    recipe: Recipe, tokenizer: Any, heldout: Sequence[Prompt], say: Say
) -> tuple[list[Prompt], list[list[int]]]:
    """Prompts of the recipe's source that are not held out, and their tokens."""
    data = recipe.data
    if not data.source:
        raise UsageError("the recipe names no prompts: set data.source to a file, a known name or reasoning_gym:TASK")
    prompts = _prompts(data, data.limit)
    seen = {p.text for p in heldout}
    kept = [p for p in prompts if p.text not in seen]
    if len(kept) < len(prompts):
        say(f"{len(prompts) - len(kept)} of {len(prompts)} prompts are held out for evaluation and are not trained on")
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
    """A run directory holds one run: another recipe there is refused, key by key."""
    if not (run_dir / "recipe.toml").is_file():
        return
    before, now = load(run_dir / "recipe.toml").model_dump(), recipe.model_dump()
    before["verify"].pop("graded"), now["verify"].pop("graded")  # compared with what was trained: _check_same_grades
    for key in now:
        if key in MAY_CHANGE or before[key] == now[key]:
            continue
        inner = now[key] if isinstance(now[key], dict) else {}
        name = next((f"{key}.{k}" for k in inner if before[key].get(k) != inner[k]), key)
        old, new = (v[key].get(name.split(".")[1]) if inner else v[key] for v in (before, now))
        raise UsageError(
            f"{run_dir} holds a run with {name} = {old!r}, not {new!r}; use another --run-dir, or --resume never to "
            "set the old one aside"
        )


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
    write_text(run_dir / "recipe.toml", to_toml(recipe))
    MetricsLog(run_dir / "metrics.jsonl").rewind(step)
