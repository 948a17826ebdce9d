"""What a recipe asks for, checked before anything loads: do algorithm, engine, verifier and sizes fit together?"""

from __future__ import annotations

from collections.abc import Sequence

from sieverl.algorithms.algorithm import Algorithm
from sieverl.algorithms.axes import inapplicable, with_axes
from sieverl.algorithms.describe import describe
from sieverl.algorithms.named import get_algorithm
from sieverl.algorithms.sieve import teaches
from sieverl.algorithms.trial import try_out
from sieverl.distributed.world import World
from sieverl.engines.registry import ENGINES, OPTIONS
from sieverl.errors import DataError, UsageError
from sieverl.files import user_path
from sieverl.model.load import choose_device
from sieverl.recipe import Recipe
from sieverl.types import Prompt
from sieverl.verify import Pool, check_gold, is_graded

ROUNDING = 0.01  # nats between two arithmetics in bfloat16, in the mean over a response


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
    if recipe.train.old == "engine" and not on_policy(recipe) and clips and min(clips) < ROUNDING:
        raise UsageError(
            f"{recipe.algorithm} clips the ratio at {min(clips):g}, and train.old = 'engine' would take it to an "
            f"engine whose log-probs are up to {ROUNDING} off by rounding alone; use train.old = 'learner'"
        )
    check_engine(recipe)
    if recipe.rollout.staleness and "ratio" not in algorithm.needs:
        raise UsageError(
            f"rollout.staleness = {recipe.rollout.staleness} trains on responses of an older policy, and "
            f"{recipe.algorithm} ({describe(algorithm.objective)}) has no importance ratio to correct for it; use "
            "rollout.staleness = 0, or an algorithm with a ratio such as grpo or raft_pp"
        )
    try_out(algorithm, recipe.algorithm)
    return algorithm


def check_engine(recipe: Recipe) -> None:
    """Raises a UsageError for what the chosen engine does not support, by what it says of itself."""
    engine, settings = ENGINES[recipe.rollout.engine], recipe.rollout
    asked = {
        'distributed.strategy = "fsdp"': recipe.distributed.strategy == "fsdp" and not engine.sharded,
        "rollout.stop": bool(settings.stop) and not engine.stop_strings,
        'dtype = "float64"': recipe.dtype == "float64" and not engine.float64,
    }
    for what, refused in asked.items():
        if refused:
            raise UsageError(f'rollout.engine = {settings.engine!r} does not support {what}; use "torch"')
    changed = [key for key in sorted(OPTIONS) if getattr(settings, key) != type(settings).model_fields[key].default]
    for key in changed:
        if key not in engine.options:
            has = " or ".join(f'"{name}"' for name, other in ENGINES.items() if key in other.options)
            raise UsageError(f"rollout.engine = {settings.engine!r} knows no rollout.{key}; leave it out, or use {has}")


def check_world(recipe: Recipe, world: World) -> None:
    """Ranks that make no whole groups, and an offload from where there is no GPU, are refused."""
    shared = recipe.distributed
    group = shared.shard_size or world.size
    if world.size > 1 and world.size % group:
        raise UsageError(
            f"distributed.shard_size = {group} does not divide the {world.size} ranks of this run: {world.size} = "
            f"{world.size // group} x {group} + {world.size % group}; start a multiple of {group} ranks, or set it to "
            f"one of {', '.join(str(n) for n in range(1, world.size + 1) if world.size % n == 0)}"
        )
    if shared.cpu_offload and choose_device(recipe.model.device) == "cpu":
        raise UsageError(
            "distributed.cpu_offload moves parameters and optimiser state from a GPU to CPU memory, and this run "
            "computes on the CPU: they are there already; leave it out"
        )


def on_policy(recipe: Recipe) -> bool:
    """Whether the engine's log-probs are the learner's own, so that they need no importance sampling."""
    return recipe.rollout.staleness == 0 and ENGINES[recipe.rollout.engine].on_policy(recipe.dtype)


def left_out(recipe: Recipe, algorithm: Algorithm) -> str:
    """The axes of the recipe that its algorithm has no use for, in a line; empty where there are none."""
    axes = [f"axes.{axis}" for axis in inapplicable(algorithm, recipe.chosen_axes)]
    does, is_ = ("does", "is") if len(axes) == 1 else ("do", "are")
    which = f"{recipe.algorithm} ({describe(algorithm.objective)})"
    lines = [f"{', '.join(axes)} {does} not apply to {which} and {is_} left out"] if axes else []
    sieve = algorithm.sampling.sieve
    if sieve is not None and sieve.threshold and all(teaches(algorithm, recipe.rollout.samples)):
        penalty = " with its penalties" if algorithm.penalties else ""
        lines.append(f"the sieve leaves nothing out: {recipe.algorithm}{penalty} learns from every group")
    return "\n".join(lines)


def check_verifier(recipe: Recipe) -> None:
    """Options that the verifier does not have, and a user's file that is not there, are refused before all else.

    Its workers open the file only for a response that is not truncated.
    """
    is_graded(recipe.verify.spec)
    name = recipe.verify.name
    source = name.rpartition(":")[0]
    if source.endswith(".py") and not user_path(source).is_file():
        raise UsageError(f"verify.name is {name!r}, and {source} is not a file; write FILE.py:NAME")


def build_pool(recipe: Recipe, prompts: Sequence[Prompt]) -> Pool:
    """The verifier's workers, once the gold answers of a sample of the prompts verify: else rewards mean nothing."""
    limits = recipe.verify
    pool = Pool(limits.spec, limits.workers, limits.timeout_s, limits.memory_mb, limits.network, limits.environment)
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
