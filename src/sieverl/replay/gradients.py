"""The gradients of a run's policy on logged responses, under several algorithms, by the learner's own code."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sieverl.algorithms.algorithm import Algorithm
from sieverl.assets import model_place
from sieverl.distributed.world import World
from sieverl.errors import DataError
from sieverl.learner.batches import pack
from sieverl.model.load import load_tokenizer
from sieverl.model.policy import Policy
from sieverl.recipe import Recipe
from sieverl.replay.credit import Replayed
from sieverl.replay.rows import Logged, read_rollouts
from sieverl.run_dir import manifest
from sieverl.run_dir.saved import SavedRun
from sieverl.training.models import build_learner, build_policy, initial_policy, set_threads
from sieverl.training.prompts import TrainingData, read_data, render_data
from sieverl.training.shared import prompts_digest
from sieverl.types import Credit, Rollout, Tokenizer

CRITIC = "its gradient needs the values of a critic, which was trained with the run or not at all"


@dataclass(frozen=True)
class Gradient:
    """The gradient of a step: its norm before clipping, and the cosine with that of the run's own algorithm.

    The cosine is None where one of them is zero or there is no own one.
    """

    step: int
    norm: float
    cosine: float | None


def steps_with_weights(run: SavedRun) -> list[int]:
    """The steps whose weights are there: the first one, and each one after a checkpoint."""
    return [1, *(step + 1 for step in run.checkpoints)]


def gradients(
    run: SavedRun, recipe: Recipe, logged: Sequence[Logged], own: Replayed, others: Sequence[Replayed]
) -> dict[str, list[Gradient]]:
    """By algorithm the gradient of each step, at the weights before it, as a mean over mini-batches without a step
    between them.

    Raises a DataError where prompts or weights are not those of the run any more.
    """
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"device": "auto"})})
    set_threads(recipe)
    tokenizer = load_tokenizer(model_place(recipe.model.path))
    data = prompts_of(run, recipe, tokenizer)
    texts = {p.id: (p.text, ids) for p, ids in zip(data.train, data.train_tokens, strict=True)}
    out: dict[str, list[Gradient]] = {one.name: [] for one in (own, *others)}
    for one in logged:
        policy = policy_before(run, recipe, tokenizer, data, one.step)
        rollouts = read_rollouts(run, one.step, texts)
        reference: list[Tensor] | None = None
        for replayed in (own, *others):
            if replayed.refused or replayed.algorithm is None or replayed.algorithm.critic is not None:
                continue
            found = gradient(recipe, policy, replayed.algorithm, one, replayed.credits[one.step], rollouts)
            reference = found if replayed is own else reference
            out[replayed.name].append(Gradient(one.step, norm(found), cosine(found, reference)))
    return out


def prompts_of(run: SavedRun, recipe: Recipe, tokenizer: Tokenizer) -> TrainingData:
    """The prompts of the run, rendered as it saw them. Raises a DataError where they are others now."""
    data = read_data(recipe, lambda text: None)
    logged = run.starts[-1].get("data") if run.starts else None
    digest = logged.get("train") if isinstance(logged, dict) else None
    if digest and digest != prompts_digest(data.train):
        raise DataError(f"data.source of {run.path} holds other prompts than the run had, so its tokens are not known")
    return render_data(recipe, data, tokenizer, lambda text: None)


def policy_before(run: SavedRun, recipe: Recipe, tokenizer: Tokenizer, data: TrainingData, step: int) -> Policy:
    """The policy as it was before a step: of its checkpoint, or the initial one."""
    folder: Path | None = None
    if step > 1:
        folder = run.path / "checkpoints" / f"{manifest.PREFIX}{step - 1}"
        if not folder.is_dir():
            raise DataError(
                f"the weights before step {step} are not saved: there is no checkpoint of step {step - 1}; those of "
                f"step {', '.join(map(str, steps_with_weights(run)))} are"
            )
        if fault := manifest.verify_manifest(folder):
            raise DataError(f"the checkpoint {folder} is damaged: {fault}; replay another step")
    return build_policy(recipe, tokenizer, data, folder)


def gradient(
    recipe: Recipe, policy: Policy, algorithm: Algorithm, logged: Logged, credit: Credit, rollouts: dict[int, Rollout]
) -> list[Tensor]:
    """The gradient of each trained parameter; zeros where nothing is kept."""
    learner = build_learner(recipe, algorithm, policy, initial_policy(recipe, policy, World()), World())
    batches = pack(logged.responses, credit, rollouts, algorithm, recipe.train.minibatches)
    learner.score(batches)
    parameters = list(policy.parameters.values())
    total, count = [torch.zeros_like(p) for p in parameters], 0
    for batch in filter(learner.has_work, batches):
        learner.backward(batch, {})
        count += 1
        for sum_, p in zip(total, parameters, strict=True):
            if p.grad is not None:
                sum_ += p.grad
    learner.gradients.clear()
    return [sum_ / max(count, 1) for sum_ in total]


def dot(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """The inner product, summed in float64."""
    return sum(float((a.double() * b.double()).sum()) for a, b in zip(one, other, strict=True))


def norm(one: Sequence[Tensor]) -> float:
    """The Euclidean norm."""
    return math.sqrt(dot(one, one))


def cosine(one: Sequence[Tensor], other: Sequence[Tensor] | None) -> float | None:
    """The cosine of the angle between two gradients; None where one is zero or missing.

    >>> cosine([torch.tensor([1.0, 0.0])], [torch.tensor([2.0, 0.0])]), cosine([torch.zeros(2)], [torch.ones(2)])
    (1.0, None)
    """
    if other is None or not (size := norm(one) * norm(other)):
        return None
    return dot(one, other) / size
