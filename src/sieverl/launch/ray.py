"""The same run on the ranks of Ray Train: on a local cluster, or on one that is there."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

from sieverl.distributed.world import BACKENDS
from sieverl.errors import Alarm, SieveRLError, UsageError
from sieverl.launch.board import Board, End, play
from sieverl.launch.ray_cluster import ALWAYS, DEADLINE_S, cluster, wait_for_room
from sieverl.launch.ray_worker import run_rank
from sieverl.launch.work import Outcome, Watcher
from sieverl.recipe import Recipe, to_toml
from sieverl.training.resume import Resume
from sieverl.training.signals import stop_requests

POLL_S = 0.2


@dataclass(frozen=True)
class RayLauncher:
    """Runs a recipe on `workers` ranks of the Ray cluster at `address`, or of a local one.

    A rank that is lost (its process, its node) lets all of them start again from the last checkpoint, up to
    `max_failures` times. An error that another start would meet again, such as a wrong recipe, ends the run at once.
    """

    workers: int = 1
    address: str | None = None
    max_failures: int = 3

    def __post_init__(self) -> None:
        for option, value, least in (("--workers", self.workers, 1), ("--max-failures", self.max_failures, 0)):
            if value < least:
                raise UsageError(f"{option} is {value}; it takes {least} or more")

    def __call__(self, recipe: Recipe, resume: Resume, watcher: Watcher) -> Outcome:
        """Raises what a rank raised, and an Alarm after too many failures."""
        recipe = recipe.model_copy(update={"run_dir": str(Path(recipe.run_dir).absolute())})
        with cluster(self.address) as ray, stop_requests() as requested, TemporaryDirectory() as storage:
            each = resources(recipe, ray.cluster_resources())
            wait_for_room(ray, self.workers, each, DEADLINE_S if self.address else 0.0)
            board = ray.remote(Board).options(**beside(ray)).remote()
            config = {"recipe": to_toml(recipe), "resume": resume, "folder": os.getcwd(), "board": board}
            fitting = ray.remote(fit).options(**beside(ray), max_retries=0, runtime_env={"env_vars": ALWAYS})
            done = fitting.remote(config, self.workers, each, self.max_failures, storage)
            end = follow(ray, board, done, watcher, requested)
            if isinstance(end, Outcome):
                return end
            raise end or self.gave_up(recipe, ray.get(done))

    def gave_up(self, recipe: Recipe, why: SieveRLError | str | None) -> SieveRLError:
        """Why there is no outcome: what the ranks failed with at last, or what Ray says of them."""
        if isinstance(why, SieveRLError):
            return why
        return Alarm(
            f"the run failed more than --max-failures = {self.max_failures} times; once the reason is gone, the same "
            f"command goes on from the last checkpoint in {recipe.run_dir}. The last failure: {why}"
        )


def fit(
    config: dict[str, Any], workers: int, each: dict[str, float], max_failures: int, storage: str
) -> SieveRLError | str | None:
    """Ray Train from start to end, in a process of its own, which the cluster can end: None, or why Ray gave up.

    `storage` stays next to empty: a run has checkpoints of its own.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchConfig, TorchTrainer

    gpu = each["GPU"] > 0
    failures = FailureConfig(max_failures=max_failures, controller_failure_limit=max_failures)
    trainer = TorchTrainer(
        run_rank,
        train_loop_config=config,
        torch_config=TorchConfig(backend=BACKENDS if gpu else "gloo"),
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpu, resources_per_worker=each),
        run_config=RunConfig(storage_path=storage, failure_config=failures),
    )
    try:
        trainer.fit()
    except TrainingFailedError as error:
        failed = getattr(error, "worker_failures", {}).values()
        return next((one for one in failed if isinstance(one, SieveRLError)), str(error))
    return None


def beside(ray: ModuleType) -> dict[str, Any]:
    """Options of what belongs to the command: on its node, without a CPU that a rank could have."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    node = ray.get_runtime_context().get_node_id()
    return {"num_cpus": 0, "scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False)}


def resources(recipe: Recipe, has: Mapping[str, float]) -> dict[str, float]:
    """What a rank takes: a GPU where the cluster has some and the recipe allows it, and a CPU for each of its threads.

    >>> from sieverl.recipe import build
    >>> resources(build({"threads": 2}), {"CPU": 8.0}), resources(build({}), {"CPU": 8.0, "GPU": 4.0})
    ({'CPU': 2, 'GPU': 0}, {'CPU': 1, 'GPU': 1})
    """
    gpu = int(bool(has.get("GPU")) and recipe.model.device != "cpu")
    return {"CPU": max(1, recipe.threads), "GPU": gpu}


def follow(ray: ModuleType, board: Any, done: object, watcher: Watcher, requested: Sequence[int]) -> End | None:
    """Show what the ranks tell until they are done or one has an error; pass on the first signal. None: Ray gave up."""
    shown, told, over = 0, False, False
    while not over:
        over = bool(ray.wait([done], timeout=POLL_S)[0])
        if requested and not told:
            ray.get(board.stop.remote(requested[0]))
            told = True
        end: End | None = ray.get(board.ending.remote())
        messages = ray.get(board.take.remote(shown))
        play(messages, watcher)
        shown += len(messages)
        over = over or isinstance(end, SieveRLError)  # the others need not be waited for: they end with the cluster
    return end
