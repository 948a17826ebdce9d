"""The same run on the ranks of Ray Train: on a local cluster, or on one that is there."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

from sieverl.distributed.world import BACKENDS
from sieverl.errors import Alarm, SieveRLError, UsageError
from sieverl.launch.board import Board, End, play
from sieverl.launch.ray_cluster import DEADLINE_S, cluster, wait_for_room
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
            board = ray.remote(num_cpus=0)(Board).remote()
            config = {"recipe": to_toml(recipe), "resume": resume, "folder": os.getcwd(), "board": board}
            fit = in_background(self.trainer(config, each, storage).fit)
            end = follow(ray, board, fit, watcher, requested)
        if end is None:
            raise self.gave_up(recipe, fit.exception())
        if isinstance(end, SieveRLError):
            raise end
        return end

    def trainer(self, config: dict[str, Any], each: dict[str, float], storage: str) -> Any:
        """Ray's trainer of `run_rank`, which keeps next to nothing in `storage`: a run has checkpoints of its own."""
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer

        failures = FailureConfig(max_failures=self.max_failures, controller_failure_limit=self.max_failures)
        return TorchTrainer(
            run_rank,
            train_loop_config=config,
            torch_config=TorchConfig(backend=BACKENDS if each["GPU"] else "gloo"),
            scaling_config=ScalingConfig(num_workers=self.workers, use_gpu=each["GPU"] > 0, resources_per_worker=each),
            run_config=RunConfig(storage_path=storage, failure_config=failures),
        )

    def gave_up(self, recipe: Recipe, error: BaseException | None) -> SieveRLError:
        """Why there is no outcome: what the ranks failed with at last, or what Ray says of them."""
        for failure in getattr(error, "worker_failures", {}).values():
            if isinstance(failure, SieveRLError):
                return failure
        return Alarm(
            f"the run failed more than --max-failures = {self.max_failures} times; once the reason is gone, the same "
            f"command goes on from the last checkpoint in {recipe.run_dir}. The last failure: {error}"
        )


def resources(recipe: Recipe, has: Mapping[str, float]) -> dict[str, float]:
    """What a rank takes: a GPU where the cluster has some and the recipe allows it, and a CPU for each of its threads.

    >>> from sieverl.recipe import build
    >>> resources(build({"threads": 2}), {"CPU": 8.0}), resources(build({}), {"CPU": 8.0, "GPU": 4.0})
    ({'CPU': 2, 'GPU': 0}, {'CPU': 1, 'GPU': 1})
    """
    gpu = int(bool(has.get("GPU")) and recipe.model.device != "cpu")
    return {"CPU": max(1, recipe.threads), "GPU": gpu}


def in_background(task: Callable[[], object]) -> Future[object]:
    """The result of `task`, in a thread that does not keep the process alive; the main thread has the signals."""
    future: Future[object] = Future()

    def run() -> None:
        try:
            future.set_result(task())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="ray-train", daemon=True).start()
    return future


def follow(ray: ModuleType, board: Any, fit: Future[object], watcher: Watcher, requested: Sequence[int]) -> End | None:
    """Show what the ranks tell until they are done or one has an error; pass on the first signal. None: Ray gave up."""
    shown, told, over = 0, False, False
    while not over:
        over = bool(wait([fit], timeout=POLL_S).done)
        if requested and not told:
            ray.get(board.stop.remote(requested[0]))
            told = True
        end: End | None = ray.get(board.ending.remote())
        messages = ray.get(board.take.remote(shown))
        play(messages, watcher)
        shown += len(messages)
        over = over or isinstance(end, SieveRLError)  # the others need not be waited for: they end with the cluster
    return end
