"""Held-out evaluation during training, and the KL to the reference policy there."""

from __future__ import annotations

import time
from collections.abc import Sequence

from sieverl.evaluation.kl import exact_kl
from sieverl.evaluation.measure import measure
from sieverl.rollout.environment import PromptSet
from sieverl.rollout.verified import Scored
from sieverl.run_dir.rollouts import write_rollouts
from sieverl.training.grades import settle_grades_of_evaluation
from sieverl.training.records import answer_read, rollout_row
from sieverl.training.state import Run
from sieverl.types import Metrics, Rollout


def evaluate(run: Run) -> Metrics:
    """avg@k, pass@k and maj@k on the held-out prompts with intervals, and the KL to the reference policy there."""
    prompts, settings = run.heldout, run.recipe.evaluate
    if prompts is None:
        return {}
    started = time.perf_counter()
    name, k = settings.name, settings.samples
    spec, version = run.recipe.verify.spec, run.state.step
    sampled = run.sampler.submit(run.engine, run.policy, version, lambda: measure(run.environment, prompts, k, spec))
    found = sampled.result()
    row: Metrics = {}
    for score in (f"avg@{k}", f"pass@{k}", f"maj@{k}"):
        row[f"eval/{name}/{score}"], low, high = found.summary.scores[score]
        row |= {f"eval_ci/{name}/{score}/low": low, f"eval_ci/{name}/{score}/high": high}
    row |= {f"eval/{name}/{share}": found.summary.shares[share] for share in ("length_mean", "truncated", "no_answer")}
    if settings.kl_prompts:
        chosen = [s.rollout for s in found.scored if s.rollout.group < settings.kl_prompts]
        row[f"eval/{name}/kl_ref"] = _kl_to_reference(run, chosen) if run.state.step else 0.0
    settle_grades_of_evaluation(run, found.scored)
    log_evaluation(run, prompts, found.scored)
    row["time/evaluate"] = time.perf_counter() - started
    return row


def _kl_to_reference(run: Run, rollouts: Sequence[Rollout]) -> float:
    run.progress("evaluating")
    reference, sizes = run.reference(), [len(r.prompt_tokens) + len(r.tokens) for r in rollouts]
    return run.learner.budget.fit(lambda tokens: exact_kl(run.policy, reference, rollouts, tokens, run.world), sizes)


def log_evaluation(run: Run, prompts: PromptSet, scored: Sequence[Scored]) -> None:
    """Every held-out response into its Parquet file, by rank 0."""
    step, read = run.state.step, answer_read(run)
    own = [rollout_row(step, step, prompts.prompts[s.rollout.group], s, read) for s in scored]
    rows = [row for part in run.world.gather(own) for row in part]
    if run.world.rank == 0:
        write_rollouts(run.run_dir, run.state.step, sorted(rows, key=lambda r: (r.prompt_id, r.sample)), "eval")
