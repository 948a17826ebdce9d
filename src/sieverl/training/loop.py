"""The story: sample, verify, credit, cut and pack, score, update, load; log, evaluate, checkpoint."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict

from sieverl.learner.batches import pack
from sieverl.learner.redistribute import assign_ranks, imbalance, redistribute
from sieverl.rollout.collect import Batch
from sieverl.training import checkpoint, signals
from sieverl.training.ahead import after_batch, next_batch, queue_to_saved
from sieverl.training.alarms import check_alarms, stop_if, warnings
from sieverl.training.credit import credit_of
from sieverl.training.grades import settle_grades
from sieverl.training.heldout import evaluate
from sieverl.training.inspection import save_for_inspection
from sieverl.training.memory import keep_halved
from sieverl.training.notes import notes
from sieverl.training.records import best_step, log_rollouts, record, step_metrics
from sieverl.training.signals import Preempted
from sieverl.training.state import Run
from sieverl.training.watchdog import watching
from sieverl.types import Credit, Metrics, Note, Rollout

OnRow = Callable[[Metrics, Sequence[Note]], None]
"""Sees, on rank 0, every row of metrics and notes on it in words."""
StopRequests = Callable[[], AbstractContextManager[Sequence[int]]]
"""Gives the signals that ask this rank to stop, a sequence that grows; by default those of its process."""


def train(
    run: Run, on_row: OnRow = lambda row, notes: None, stop_requests: StopRequests = signals.stop_requests
) -> None:
    """Train until `recipe.steps`, from wherever `run.state` stands."""
    with watching(run):
        try:
            _train(run, on_row, stop_requests)
        finally:
            run.progress("waiting for the checkpoint")
            run.saver.wait()


def _train(run: Run, on_row: OnRow, stop_requests: StopRequests) -> None:
    recipe, state = run.recipe, run.state
    if state.step == 0:
        row = {"step": 0, **evaluate(run)}
        record(run, row)
        check_alarms(run, row)
        if run.world.rank == 0:
            on_row(row, [])
    with stop_requests() as requested:
        while state.step < recipe.steps:
            row = one_step(run)
            run.saver.check()
            last = state.step == recipe.steps
            if last or (recipe.evaluate.every and state.step % recipe.evaluate.every == 0):
                row |= evaluate(run)
            record(run, row)
            alarms = check_alarms(run, row)
            if run.world.rank == 0:
                on_row(row, [*notes(run, row), *warnings(alarms)])
            due = recipe.checkpoint.every and state.step % recipe.checkpoint.every == 0
            stop = run.world.sum_floats([len(requested)])[0] > 0
            if last or due or stop:
                save(run)
            stop_if(alarms)
            if stop and not last:
                raise Preempted(requested[0] if requested else signal.SIGTERM)


def one_step(run: Run) -> Metrics:
    """Sample and learn; the row of metrics of this step."""
    recipe, state = run.recipe, run.state
    started = time.perf_counter()
    run.progress(f"the responses of step {state.step + 1}")
    batch = next_batch(run)
    sampled = time.perf_counter()
    credit = assign_credit(run, batch)
    rollouts, unequal = share(run, batch, credit)
    batches = pack(batch.responses, credit, rollouts, run.algorithm, recipe.train.minibatches)
    run.progress("updating")
    scores = run.learner.score(batches, probe=list(batch.rollouts.values())[: recipe.rollout.samples])
    metrics = run.learner.update(batches) | scores
    state.step += 1
    state.cursor = batch.cursor
    state.ledger = after_batch(run, state.ledger, batch)
    save_for_inspection(run, batch, batches, metrics)
    metrics |= keep_halved(run)
    ended = time.perf_counter()
    run.progress("writing the responses")
    log_rollouts(run, batch, credit, batches)
    tokens = int(batch.responses.length_R.sum())
    return {
        "step": state.step,
        **step_metrics(run, batch, credit),
        **metrics,
        "ranks/token_imbalance": unequal,
        "rollout/tokens_per_second": tokens / batch.seconds,
        "time/rollout": sampled - started,
        "time/update": ended - sampled,
        "time/step": ended - started,
    }


def assign_credit(run: Run, batch: Batch) -> Credit:
    """Keep and advantage of every response of all ranks, the same on each rank."""
    graded = settle_grades(run, batch.responses)
    return credit_of(run.recipe, run.algorithm, batch.responses, run.state.step + 1, graded)


def share(run: Run, batch: Batch, credit: Credit) -> tuple[dict[int, Rollout], float]:
    """The responses that this rank computes, by row, and how unequal the ranks' work is: 0.05 is 5% over the mean."""
    prompts = [run.prompts.prompt_tokens[index] for index in batch.prompt_of_group]
    lengths, minibatches, world = [len(p) for p in prompts], run.recipe.train.minibatches, run.world
    rank_R = assign_ranks(batch.responses, credit, run.algorithm, minibatches, lengths, world.size)
    unequal = imbalance(batch.responses, rank_R, minibatches, lengths, world.size)
    return redistribute(batch.responses, batch.rollouts, rank_R, prompts, world), unequal


def save(run: Run) -> None:
    """Have the state after the last step written as a checkpoint, once the one before it is written."""
    run.progress("saving")
    run.saver.wait()
    queue, tensors = queue_to_saved(run)
    state, settings = {**asdict(run.state), "queue": queue}, run.recipe.checkpoint
    best = best_step(run) if settings.keep_best else None
    directory = run.run_dir / "checkpoints"
    run.saver.start(
        checkpoint.saving(directory, run.policy, run.learner, state, settings, tensors, best, run.saver.world)
    )
