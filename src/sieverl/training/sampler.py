"""The engine's work, one piece after the other, each with the weights that it is meant for.

With `rollout.staleness` above 0 the work is done in a thread while the learner trains; else at once, where it is
asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from torch import Tensor

from sieverl.distributed.fsdp import whole
from sieverl.engines.protocol import Engine
from sieverl.errors import EngineError
from sieverl.model.policy import Policy

Result = TypeVar("Result")


class Sampler:
    """Runs work that samples, in the order in which it is submitted; `concurrently` in a thread of its own."""

    def __init__(self, concurrently: bool = False) -> None:
        self._thread = ThreadPoolExecutor(1, "sampler") if concurrently else None
        self._version = -1  # of the weights that the engine has once all submitted work is done

    def submit(self, engine: Engine, policy: Policy, version: int, work: Callable[[], Result]) -> Future[Result]:
        """`work` with the policy's weights as they are now in `engine`; `version` is the number of steps trained.

        Every rank must call this, since a sharded policy is put together for an engine that samples meanwhile.
        """
        weights: dict[str, Tensor] | None = None
        if version != self._version:
            weights = policy.weights()
            if self._thread:  # the learner goes on with these
                weights = {name: whole(x).clone() for name, x in weights.items()}
            self._version = version

        def job() -> Result:
            if weights is not None:
                engine.load(weights, version)
            if engine.version != version:
                raise EngineError(
                    f"the engine is stale: it has the weights of step {engine.version}, and was given those of step "
                    f"{version}; its `load` did not take them"
                )
            return work()

        return self._thread.submit(job) if self._thread else _at_once(job)

    def close(self) -> None:
        """Forget the work that has not begun."""
        if self._thread:
            self._thread.shutdown(wait=False, cancel_futures=True)


def _at_once(job: Callable[[], Result]) -> Future[Result]:
    future: Future[Result] = Future()
    future.set_result(job())
    return future
