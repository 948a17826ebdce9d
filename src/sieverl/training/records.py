"""The rows of metrics and responses that a step leaves in the run directory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from sieverl.files import storing
from sieverl.rollout.collect import Batch
from sieverl.rollout.verified import Scored
from sieverl.run_dir import manifest
from sieverl.run_dir.metrics import nonfinite
from sieverl.run_dir.rollouts import RolloutRow, write_rollouts
from sieverl.training.state import Run
from sieverl.types import Credit, Metrics, Prompt, Status


def step_metrics(run: Run, batch: Batch, credit: Credit) -> Metrics:
    """The metrics of a batch of responses, kept or not."""
    responses = batch.responses
    groups, index = np.unique(responses.prompt_R, return_inverse=True)
    share = np.bincount(index, responses.correct_R) / np.bincount(index)
    status = {status: batch.status_R.count(status.value) for status in Status}
    return {
        "reward/mean": float(responses.reward_R.mean()),
        "reward/std": float(responses.reward_R.std()),
        "reward/max": float(responses.reward_R.max()),
        "reward/accuracy": float(responses.correct_R.mean()),
        **part_means(batch.parts_R),
        "select/kept_fraction": float(credit.keep.mean()),
        "select/all_wrong": float((share == 0).mean()),
        "select/all_correct": float((share == 1).mean()),
        "select/prompts": float(len(groups)),
        "select/rounds": float(batch.rounds),
        "select/empty_steps": float(0 if credit.keep.any() else run.state.empty_steps + 1),
        "policy/entropy": batch.entropy,
        "policy/staleness": float(run.state.step - 1 - batch.version),
        "rollout/responses": float(len(responses)),
        "rollout/length_mean": float(responses.length_R.mean()),
        "rollout/length_max": float(responses.length_R.max()),
        "rollout/truncated": float(responses.truncated_R.mean()),
        "rollout/tokens": float(responses.length_R.sum()),
        "verify/no_answer": status[Status.NO_ANSWER] / len(responses),
        "verify/timeouts": float(status[Status.VERIFIER_TIMEOUT]),
        "verify/errors": float(status[Status.VERIFIER_ERROR]),
    }


def part_means(parts_R: Sequence[Mapping[str, float | None]]) -> Metrics:
    """`reward/<name>/mean` of each part of the rewards, over the responses to which it applied.

    >>> part_means([{"math": 1.0, "brief": None}, {"math": 0.0, "brief": 0.5}, {}])
    {'reward/brief/mean': 0.5, 'reward/math/mean': 0.5}
    """
    out: Metrics = {}
    for name in sorted({name for parts in parts_R for name in parts}):
        values = [value for parts in parts_R if (value := parts.get(name)) is not None]
        if values:
            out[f"reward/{name}/mean"] = float(np.mean(values))
    return out


def rollout_row(
    step: int,
    version: int,
    prompt: Prompt,
    scored: Scored,
    kept: bool | None = None,
    advantage: float | None = None,
) -> RolloutRow:
    """The record of one response; `version` is that of the weights which sampled it."""
    rollout, verdict = scored.rollout, scored.verdict
    return RolloutRow(
        step=step,
        group=rollout.group,
        sample=rollout.sample,
        prompt_id=prompt.id,
        prompt=prompt.text,
        answer=str(prompt.row.get("answer", "")),
        response=scored.text,
        reward=verdict.reward,
        correct=verdict.correct,
        status=verdict.status.value,
        length=len(rollout.tokens),
        truncated=rollout.truncated,
        kept=kept,
        advantage=advantage,
        logp=float(sum(rollout.logp)),
        policy_version=version,
        parts=verdict.parts,
    )


def log_rollouts(run: Run, batch: Batch, credit: Credit) -> None:
    """Every response of the step into its Parquet file, by rank 0."""
    prompts = [run.prompts.prompts[index] for index in batch.prompt_of_group]
    keep, advantage, step = credit.keep.tolist(), credit.advantage.tolist(), run.state.step
    own = [
        rollout_row(step, batch.version, prompts[scored.rollout.group], scored, keep[row], advantage[row])
        for row, scored in batch.own.items()
    ]
    rows = [row for part in run.world.all_gather(own) for row in part]
    if run.world.rank == 0:
        with storing("the responses", run.run_dir):
            write_rollouts(run.run_dir, run.state.step, sorted(rows, key=lambda r: (r.group, r.sample)))


def record(run: Run, row: Metrics) -> None:
    """One row into metrics.jsonl, by rank 0, and the counters that alarms look at."""
    run.state.empty_steps = int(row.get("select/empty_steps", 0))
    run.nonfinite = nonfinite(row)
    run.state.nonfinite_steps = run.state.nonfinite_steps + 1 if run.nonfinite else 0
    if run.world.rank == 0:
        with storing("metrics.jsonl", run.run_dir):
            run.metrics.append(row)


def best_step(run: Run) -> int | None:
    """The step of the best held-out evaluation among this step and those with a checkpoint; None without any."""
    name, k = run.recipe.evaluate.name, run.recipe.evaluate.samples
    kept = {*manifest.steps(run.run_dir / "checkpoints"), run.state.step}
    scores = {row["step"]: row.get(f"eval/{name}/avg@{k}") for row in run.metrics.rows() if row["step"] in kept}
    measured = {int(step): score for step, score in scores.items() if score is not None}
    return max(measured, key=lambda step: (measured[step], step), default=None)
