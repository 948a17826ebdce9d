"""What a run is between two steps (`State`) and what it works with (`Run`)."""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, fields
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from sieverl.algorithms.algorithm import Algorithm
from sieverl.data import Cursor
from sieverl.distributed.world import World
from sieverl.engines.protocol import Engine
from sieverl.errors import CheckpointError
from sieverl.learner.learner import Learner
from sieverl.model.policy import Policy
from sieverl.recipe import Recipe
from sieverl.rollout.collect import Batch
from sieverl.rollout.environment import Environment, PromptSet
from sieverl.rollout.ledger import Ledger
from sieverl.run_dir.lock import Lock
from sieverl.run_dir.metrics import MetricsLog
from sieverl.training.sampler import Sampler
from sieverl.training.saver import Saver
from sieverl.types import JsonObject, Progress
from sieverl.verify import Pool


@dataclass
class Watched:
    """What the alarms remember from step to step.

    `recent`: by rule, 1 for each of its last steps in which its threshold was passed, 0 for the others, newest last.
    `begun`: the rules whose warning was said and is not over. `start`: what the first steps were like, by metric.
    """

    recent: dict[str, list[int]] = field(default_factory=dict)
    begun: list[str] = field(default_factory=list)
    start: dict[str, float] = field(default_factory=dict)


@dataclass
class State:
    """What a run is between two steps, beside weights and optimiser state: all of it is in a checkpoint."""

    step: int = 0
    cursor: Cursor = field(default_factory=Cursor)
    empty_steps: int = 0
    graded: bool | None = None  # whether rewards mean more than right and wrong; None before the first step
    nonfinite_steps: int = 0
    watched: Watched = field(default_factory=Watched)
    data: dict[str, str] = field(default_factory=dict)  # SHA-256 of the prompts: "train" and "heldout"
    ledger: Ledger = field(default_factory=Ledger)  # of the prompts; filled where the algorithm has a sieve

    @staticmethod
    def of(saved: JsonObject, step: int) -> State:
        """The state in the `training.json` of the checkpoint of `step`. Raises a CheckpointError where it cannot be."""
        try:
            known = {field.name: saved[field.name] for field in fields(State) if field.name in saved}
            state = STATE.validate_json(json.dumps(known), strict=True)
        except ValidationError as error:
            first = error.errors()[0]
            raise CheckpointError(f"{'.'.join(map(str, first['loc']))} of a checkpoint: {first['msg']}") from error
        counts = (state.step, state.cursor.epoch, state.cursor.index, state.empty_steps, state.nonfinite_steps)
        if min(counts) < 0 or state.step != step:
            raise CheckpointError(f"the checkpoint of step {step} says that it is of step {state.step}, {state.cursor}")
        return state


STATE = TypeAdapter(State)


@dataclass(kw_only=True)
class Run:
    """What a run works with; `prepare` makes it from a recipe.

    `declared_graded` is what the recipe or the verifier says of the rewards (`State.graded` is what they are taken
    for); None: neither says so. `nonfinite` counts what was NaN or infinite
    in the last step, `reasons` are those of the verifier's errors in it, `earlier_reasons` those before. `ahead` are
    the batches of the next steps, sampled or being sampled. As a context it closes what it works with.
    """

    recipe: Recipe
    algorithm: Algorithm
    policy: Policy
    reference: Callable[[], Policy]
    learner: Learner
    environment: Environment
    prompts: PromptSet
    heldout: PromptSet | None = None
    sampler: Sampler = field(default_factory=Sampler)
    saver: Saver = field(default_factory=lambda: Saver(World(), background=False))
    ahead: deque[Future[Batch]] = field(default_factory=deque)
    state: State = field(default_factory=State)
    lock: Lock = field(default_factory=Lock)
    declared_graded: bool | None = False
    nonfinite: dict[str, int] = field(default_factory=dict)
    reasons: Counter[str] = field(default_factory=Counter)
    earlier_reasons: Counter[str] = field(default_factory=Counter)

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *error: object) -> None:
        self.sampler.close()
        if close := getattr(self.engine, "close", None):
            close()
        self.pool.close()
        self.saver.close()
        self.lock.close()

    @property
    def run_dir(self) -> Path:
        """The run directory."""
        return Path(self.recipe.run_dir)

    @property
    def metrics(self) -> MetricsLog:
        """The rows of metrics so far."""
        return MetricsLog(self.run_dir / "metrics.jsonl")

    @property
    def engine(self) -> Engine:
        """What samples."""
        return self.environment.engine

    @property
    def pool(self) -> Pool:
        """What verifies."""
        return self.environment.pool

    @property
    def progress(self) -> Progress:
        """Is told what the run is at."""
        return self.environment.progress

    @property
    def world(self) -> World:
        """This process among the ranks."""
        return self.learner.world
