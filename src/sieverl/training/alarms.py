"""The conditions under which a run stops itself."""

from __future__ import annotations

from sieverl.errors import Alarm
from sieverl.training.state import Run
from sieverl.types import Metrics

# mean |log-prob difference| in nats that rounding does not explain
MISMATCH = {"float64": 0.001, "float32": 0.001, "bfloat16": 0.5}


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
    if run.engine.version != run.state.step:
        raise Alarm(
            f"the engine ({run.recipe.rollout.engine}) is stale: it has the weights of step {run.engine.version}, and "
            f"{run.state.step} steps are trained; its `load` did not take the update"
        )
    gap, limit = row.get("policy/engine_mismatch", 0.0), alarms.engine_mismatch
    if limit is None:
        limit = MISMATCH[run.recipe.dtype]
    if limit and gap > limit:
        raise Alarm(
            f"the engine ({run.recipe.rollout.engine}) samples from other weights than those that are trained: its "
            f"log-probs are {gap:.2g} nats from the learner's (alarms.engine_mismatch = {limit:g}). It was given the "
            f"weights of step {run.state.step - 1} before this step: they arrived only in part, were replaced, or its "
            "kernels compute something else"
        )
