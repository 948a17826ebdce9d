"""Everything that can be checked of a recipe without its weights, and what a run of it would begin with."""

from __future__ import annotations

from dataclasses import dataclass, field

from sieverl.algorithms.algorithm import Algorithm
from sieverl.assets import model_place
from sieverl.model.load import load_tokenizer
from sieverl.planning.lengths import Lengths
from sieverl.planning.memory import memory, peak
from sieverl.planning.setting import setting_of
from sieverl.planning.shape import cached_shape
from sieverl.planning.work import work_of
from sieverl.recipe import Recipe
from sieverl.run_dir import manifest
from sieverl.training.checks import build_pool
from sieverl.training.prompts import Say, TrainingData, render_data
from sieverl.training.resume import Resume, checkpoint_to_resume
from sieverl.training.setup import check

MEAN, TAIL = 1 / 3, 3.0  # of the limit, the mean length of a response; its spread: what `sieverl plan` takes, too


@dataclass(frozen=True)
class DryRun:
    """What a run would begin with: its recipe, its data, and bytes by what they are for, the largest sum of a moment.

    `step` is that of the checkpoint it would resume from, 0 for a new run. `memory` is empty where the shape of the
    model is not known without loading it.
    """

    recipe: Recipe
    data: TrainingData
    pieces: list[str]
    step: int = 0
    memory: dict[str, float] = field(default_factory=dict)
    peak: float = 0.0


def dry_run(recipe: Recipe, resume: Resume = "auto", say: Say = print) -> DryRun:
    """Check what `prepare` checks before it loads weights; nothing is written, and no weights are read.

    Raises a UsageError, DataError or CheckpointError for what cannot work.
    """
    checked = check(recipe, resume, say)
    recipe = checked.recipe
    found = checkpoint_to_resume(recipe, resume, say)
    tokenizer = load_tokenizer(model_place(recipe.model.path))
    data = render_data(recipe, checked.data, tokenizer, say)
    build_pool(recipe, data.train).close()
    pieces = [tokenizer.decode([token]) for token in data.train_tokens[0]]
    needed, most = estimate(recipe, checked.algorithm, data, checked.world.size)
    return DryRun(recipe, data, pieces, manifest.step_of(found) if found else 0, needed, most)


def estimate(recipe: Recipe, algorithm: Algorithm, data: TrainingData, ranks: int) -> tuple[dict[str, float], float]:
    """Bytes of one rank by what they are for, and of the moment that needs most; as `sieverl plan` counts them."""
    shape = cached_shape(model_place(recipe.model.path))
    if shape is None:
        return {}, 0.0
    limit, tokens = recipe.rollout.max_tokens, data.train_tokens
    lengths = Lengths(max(1.0, limit * MEAN), TAIL, limit)
    critic = algorithm.critic is not None and not algorithm.critic.shared
    mean_prompt = max(1, round(sum(map(len, tokens)) / len(tokens)))
    items = memory(
        shape, setting_of(recipe, ranks), work_of(recipe, algorithm.needs, critic, lengths, 1.0, mean_prompt)
    )
    return {item.name: item.bytes for item in items if not item.host}, peak(items)
