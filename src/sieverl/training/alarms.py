"""The conditions under which a run stops itself."""

from __future__ import annotations

from sieverl.errors import Alarm
from sieverl.training.state import Run
from sieverl.types import Metrics

# mean |log-prob difference| in nats: beyond what float32 explains, and beyond what bfloat16 or older weights explain
ROUNDING, OFF_POLICY = 0.001, 0.5


def check_alarms(run: Run, row: Metrics) -> None:
    """Raise an Alarm if nothing was kept for many steps, updates were not finite, or the engine has other weights."""
    alarms = run.recipe.alarms
    if alarms.empty_steps and run.state.empty_steps >= alarms.empty_steps:
        raise Alarm(
            f"nothing was kept in {run.state.empty_steps} steps in a row ({row['select/all_wrong']:.0%} of prompts "
            f"all wrong, {row['select/all_correct']:.0%} all correct): they are too hard or too easy for this model, "
            "or the verifier rejects its format. Look at the newest file in rollouts/; raise rollout.samples, take "
            "other prompts, or set alarms.empty_steps = 0 to go on"
        )
    if alarms.nonfinite_steps and run.state.nonfinite_steps >= alarms.nonfinite_steps:
        which = ", ".join(name.replace("_", "-") for name in run.nonfinite)
        raise Alarm(
            f"NaN or infinity in the update of {run.state.nonfinite_steps} steps in a row (now in {which}): such "
            "steps teach nothing. Look for a division by zero or an overflow in an advantage, objective or "
            "penalty of yours, lower train.lr, or set alarms.nonfinite_steps = 0 to go on"
        )
    gap, limit = row.get("policy/engine_mismatch", 0.0), alarms.engine_mismatch
    if limit is None:
        exact = run.recipe.dtype != "bfloat16" and not run.recipe.rollout.staleness
        limit = ROUNDING if exact else OFF_POLICY
    if limit and gap > limit:
        raise Alarm(
            f"the engine ({run.recipe.rollout.engine}) samples from other weights than those that are trained: its "
            f"log-probs are {gap:.2g} nats from the learner's (alarms.engine_mismatch = {limit:g}). Its last update "
            "arrived not at all or in part, its weights were replaced, or its kernels compute something else; "
            "docs/engines.md says how to find out"
        )
