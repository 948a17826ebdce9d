"""The rows of metrics and responses that a step leaves in the run directory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from sieverl.evaluation.votes import AnswerReader, answer_reader
from sieverl.files import storing
from sieverl.learner.batches import MiniBatch
from sieverl.rollout.collect import Batch
from sieverl.rollout.verified import Scored
from sieverl.run_dir import manifest
from sieverl.run_dir.metrics import nonfinite
from sieverl.run_dir.rollouts import RolloutRow, write_rollouts
from sieverl.training.state import Run
from sieverl.types import BoolArray, Credit, IntArray, Metrics, Prompt, Responses, Status


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
        **sieved(run, batch),
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


def sieved(run: Run, batch: Batch) -> Metrics:
    """What the sieve before sampling left out, where there is one."""
    if run.algorithm.sampling.sieve is None:
        return {}
    return {"select/skipped": float(batch.skipped), "select/stopped": float(batch.stopped)}


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
    step: int, version: int, prompt: Prompt, scored: Scored, read: AnswerReader | None, **of_a_step: Any
) -> RolloutRow:
    """The record of one response; `version` is that of the weights which sampled it.

    `read` reads an answer as the verifier does, `of_a_step` are columns that an evaluation has not: `kept`, `reason`,
    `advantage`, `learner_logp`.
    """
    rollout, verdict = scored.rollout, scored.verdict
    judged = verdict.status in (Status.CORRECT, Status.INCORRECT)
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
        extracted=read(scored.text) if read and judged else None,
        logp=float(sum(rollout.logp)),
        policy_version=version,
        tokens=rollout.tokens,
        engine_logp=rollout.logp,
        parts=verdict.parts,
        **of_a_step,
    )


def log_rollouts(run: Run, batch: Batch, credit: Credit, batches: Sequence[MiniBatch]) -> None:
    """Every response of the step into its Parquet file, by rank 0."""
    prompts = [run.prompts.prompts[index] for index in batch.prompt_of_group]
    keep, advantage, step = credit.keep.tolist(), credit.advantage.tolist(), run.state.step
    read = answer_read(run)
    reason = reasons(batch.responses, credit, run.recipe.train.mask_truncated)
    own = {
        row: rollout_row(
            step,
            batch.version,
            prompts[scored.rollout.group],
            scored,
            read,
            kept=keep[row],
            reason=reason[row],
            advantage=advantage[row],
        )
        for row, scored in batch.own.items()
    }
    computed = [s for part in batches for s in part.samples if s.learner_logp is not None]
    parts = run.world.gather((own, {s.row: s.learner_logp.tolist() for s in computed if s.learner_logp is not None}))
    if run.world.rank == 0:
        logp = {row: found for _, part in parts for row, found in part.items()}
        rows = [replace(row, learner_logp=logp.get(i)) for part, _ in parts for i, row in part.items()]
        with storing("the responses", run.run_dir):
            write_rollouts(run.run_dir, run.state.step, sorted(rows, key=lambda r: (r.group, r.sample)))


def answer_read(run: Run) -> AnswerReader | None:
    """Reads the answer of a response as the verifier does; None for a user's function, which alone knows."""
    spec = run.recipe.verify.spec
    return None if ":" in str(spec.get("name")) else answer_reader(spec)


def reasons(responses: Responses, credit: Credit, mask_truncated: bool = False) -> list[str | None]:
    """Why each response was not kept; None for those that were.

    `all_wrong` and `all_correct`: so are all responses to its prompt, and none of them was kept. `incorrect` and
    `correct`: only the others are trained on. `truncated`: it was cut off, and such are masked. `no_advantage`: it
    was chosen, and its advantage is zero. `not_chosen`: by the algorithm, for another reason.

    >>> from sieverl.algorithms import grpo, raft
    >>> from sieverl.algorithms.algorithm import as_responses
    >>> rows, _ = as_responses([[1, 0], [0, 0], [1, 1]])
    >>> reasons(rows, grpo.credit(rows))
    [None, None, 'all_wrong', 'all_wrong', 'all_correct', 'all_correct']
    >>> reasons(rows, raft.credit(rows))
    [None, 'incorrect', 'all_wrong', 'all_wrong', None, None]
    """
    _, group_R = np.unique(responses.prompt_R, return_inverse=True)

    def kept_of_group(which_R: BoolArray) -> IntArray:
        return np.bincount(group_R, credit.keep & which_R)[group_R]

    correct_R = responses.correct_R
    right_R, wrong_R = kept_of_group(correct_R), kept_of_group(~correct_R)
    share_R = (np.bincount(group_R, correct_R) / np.bincount(group_R))[group_R]
    none_R = right_R + wrong_R == 0
    found = {
        "all_wrong": none_R & (share_R == 0),
        "all_correct": none_R & (share_R == 1),
        "truncated": responses.truncated_R & mask_truncated,
        "no_advantage": credit.selected,
        "incorrect": ~correct_R & (right_R > 0) & (wrong_R == 0),
        "correct": correct_R & (wrong_R > 0) & (right_R == 0),
    }
    reason_R = np.select(list(found.values()), list(found), "not_chosen").tolist()
    return [None if kept else reason for kept, reason in zip(credit.keep.tolist(), reason_R, strict=True)]


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
