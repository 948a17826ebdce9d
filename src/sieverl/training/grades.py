"""Whether rewards mean more than right and wrong: decided once in a run, before its first update."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sieverl.errors import Alarm
from sieverl.rollout.collect import partial_rewards
from sieverl.rollout.verified import Scored
from sieverl.training.state import Run
from sieverl.types import Responses


def settle_grades(run: Run, responses: Responses) -> bool:
    """Whether the rewards are graded, now that those of a step are known; kept in `run.state.graded`.

    What the recipe or the verifier declares holds. Else rewards are graded once one before the first update is neither
    0, 1 nor -1. Raises an Alarm for such a reward in a run whose rewards were taken as right or wrong.
    """
    state = run.state
    if run.declared_graded is not None:
        state.graded = run.declared_graded
        return state.graded
    rewards = [responses.reward_R, *([responses.greedy.reward_R] if responses.greedy else [])]
    partial_R = partial_rewards(np.concatenate(rewards))
    if state.step == 0:
        state.graded = bool(state.graded) or len(partial_R) > 0
    elif not state.graded and len(partial_R):
        raise Alarm(
            f"step {state.step + 1}: a response got the reward {partial_R[0]:g}, but all rewards before the first "
            "update were 0, 1 or -1, so that they are taken as right or wrong, which does not change in a run; set "
            "verify.graded = true and start anew (--resume never), or verify.graded = false and go on"
        )
    return bool(state.graded)


def settle_grades_of_evaluation(run: Run, scored: Sequence[Scored]) -> None:
    """Let the evaluation before training say so, too: its rewards are the first that there are."""
    if run.declared_graded is None and run.state.step == 0:
        partial = partial_rewards(np.array([s.verdict.reward for s in scored], dtype=np.float64))
        run.state.graded = run.world.sum_floats([len(partial)])[0] > 0
