"""Batches of responses in the order of the steps, `rollout.staleness` steps ahead of the learner.

The batch of step k is sampled from the weights after step max(0, k - 1 - staleness): a fixed lag, whatever the machine
does. Batches that wait for the learner are part of a checkpoint, so a resumed run goes on with the same ones.
"""

from __future__ import annotations

import time
from concurrent.futures import Future
from dataclasses import replace

from torch import Tensor

from sieverl.rollout.collect import Batch, collect_rollouts
from sieverl.rollout.ledger import Ledger
from sieverl.rollout.saved import from_saved, to_saved
from sieverl.run_dir.rollouts import read_verdicts
from sieverl.training.state import Run
from sieverl.types import JsonObject


def next_batch(run: Run) -> Batch:
    """The responses of the next step; those of the steps after it go on being sampled."""
    waiting, now = run.ahead, run.state.step + 1
    while len(waiting) <= run.recipe.rollout.staleness and now + len(waiting) <= max(now, run.recipe.steps):
        waiting.append(_order(run, now + len(waiting)))
    batch = waiting.popleft().result()
    run.earlier_reasons += run.reasons
    run.reasons = batch.reasons
    return batch


def _order(run: Run, step: int) -> Future[Batch]:
    """Have the batch of `step` sampled from the weights of now, after those that were ordered before.

    Verdicts of a step that was logged before a crash are read back.
    """
    state, graded = run.state, run.declared_graded
    if graded is None:
        graded = state.graded or (None if state.step == 0 else False)
    known = read_verdicts(run.run_dir, step)
    version, cursor, ledger = state.step, state.cursor, state.ledger
    waiting = list(run.ahead)

    def work() -> Batch:
        started = time.perf_counter()
        earlier = [future.result() for future in waiting]
        start, counts = (earlier[-1].cursor if earlier else cursor), ledger
        for one in earlier:
            counts = after_batch(run, counts, one)
        settings = run.recipe.rollout
        batch = collect_rollouts(run.environment, run.prompts, run.algorithm, start, settings, graded, known, counts)
        return replace(batch, version=version, seconds=time.perf_counter() - started)

    return run.sampler.submit(run.engine, run.policy, version, work)


def after_batch(run: Run, ledger: Ledger, batch: Batch) -> Ledger:
    """The ledger of the prompts after a batch, where the algorithm's sieve goes by it; else as it was."""
    sieve = run.algorithm.sampling.sieve
    return ledger if sieve is None else ledger.after(batch.responses, batch.prompt_of_group, sieve)


def queue_to_saved(run: Run) -> tuple[list[JsonObject], dict[str, Tensor]]:
    """The batches that wait, once they are sampled, as JSON and tensors for a checkpoint. Every rank must call this."""
    tables, tensors = [], dict[str, Tensor]()
    for number, future in enumerate(run.ahead):
        about, parts = to_saved(future.result(), run.world)
        tables.append(about)
        tensors |= {f"queue.{number}.{name}": tensor for name, tensor in parts.items()}
    return tables, tensors


def restore_queue(run: Run, tables: list[JsonObject], tensors: dict[str, Tensor]) -> None:
    """Put the batches of a checkpoint back into the queue."""
    for number, about in enumerate(tables):
        prefix = f"queue.{number}."
        parts = {name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)}
        future: Future[Batch] = Future()
        future.set_result(from_saved(about, parts, run.prompts, run.environment))
        run.ahead.append(future)
