"""From rewards to credit: which responses are kept and what each is worth. Pure NumPy, float64.

Legend: R responses (rows), G groups (prompts). A group is all rows with one `prompt_R`, wherever they stand.
Every function here is one choice on the page `named.py`:

- shape      (Responses) -> R             the reward as the formula wants it
- select     (Responses) -> bool R        which responses are kept; sees `correct`, never the shaped reward
- advantage  (Responses, shaped_R) -> R   what one response is worth
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sieverl.algorithms.needs import needs
from sieverl.algorithms.shapes import BoolR, FloatR, IntR
from sieverl.types import ROUNDING, Responses

STD_EPS = 1e-6


# --- group arithmetic -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Groups:
    """Group sizes and moments of a value, spread back over the rows (all [R])."""

    index: IntR
    size: FloatR
    mean: FloatR
    std: FloatR
    maximum: FloatR
    constant: BoolR


def groups(prompt_R: IntR, value_R: FloatR) -> Groups:
    """Moments of `value_R` within each prompt, one row a response; std is the n-1 one (0 for a group of one).

    A group whose values differ by rounding only (1e-6 relative) is `constant`: its mean is then each value itself and
    its std 0, so float noise never looks like a signal.

    >>> g = groups(np.array([7, 7, 9]), np.array([1.0, -1.0, 1.0]))
    >>> g.mean, g.constant
    (array([0., 0., 1.]), array([False, False,  True]))
    """
    _, index = np.unique(prompt_R, return_inverse=True)
    value_R = np.asarray(value_R, dtype=np.float64)
    size = np.bincount(index).astype(np.float64)
    low, high = np.full(len(size), np.inf), np.full(len(size), -np.inf)
    np.minimum.at(low, index, value_R)
    np.maximum.at(high, index, value_R)
    constant = (high - low <= 1e-6 * np.maximum(1.0, np.maximum(abs(low), abs(high))))[index]
    mean = np.where(constant, value_R, (np.bincount(index, value_R) / size)[index])
    squares = np.bincount(index, (value_R - mean) ** 2)
    std = np.sqrt(squares / np.maximum(size - 1, 1))[index]
    return Groups(index, size[index], mean, std, high[index], constant)


def share_correct(responses: Responses) -> FloatR:
    """Fraction of each row's group that is correct, [R]."""
    return groups(responses.prompt_R, responses.correct_R.astype(np.float64)).mean


# --- shape: the reward as the formula wants it ----------------------------------------------------


def signed(responses: Responses) -> FloatR:
    """r in {-1, +1}: 2 correct - 1; the raw reward where it is graded (arXiv 2504.11343, section 2)."""
    return responses.reward_R.copy() if responses.graded else np.where(responses.correct_R, 1.0, -1.0)


def zero_one(responses: Responses) -> FloatR:
    """r in {0, 1}, what the paper's release feeds in: a wrong answer then weighs nothing. For comparison only."""
    return responses.reward_R.copy() if responses.graded else responses.correct_R.astype(np.float64)


@dataclass(frozen=True)
class OverlongShaped:
    """`signed` plus DAPO's length penalty `clip((L_max - L_cache - |y|) / L_cache, -1, 0)` (arXiv 2503.14476, eq. 13).

    `cache` is L_cache as a share of L_max (`max_tokens`). Never changes `correct`.
    """

    cache: float = 0.2

    def __call__(self, responses: Responses) -> FloatR:
        cache = self.cache * responses.max_tokens
        left_R = (responses.max_tokens - cache - responses.length_R).astype(np.float64) / cache
        penalty_R: FloatR = left_R.clip(-1.0, 0.0)
        return signed(responses) + penalty_R


# --- select: which responses are kept -------------------------------------------------------------


def everything(responses: Responses) -> BoolR:
    """Keep every response."""
    return np.ones(len(responses), dtype=bool)


def correct(responses: Responses) -> BoolR:
    """Keep correct responses; of graded rewards, those also at their group's maximum (RAFT, eq. 1 and 6)."""
    best_R: FloatR = groups(responses.prompt_R, responses.reward_R).maximum
    keep_R: BoolR = responses.correct_R & (responses.reward_R >= best_R - ROUNDING)
    return keep_R


@needs("group")
def mixed_groups(responses: Responses) -> BoolR:
    """Keep prompts whose responses are neither all correct nor all wrong (Reinforce-Rej)."""
    share = share_correct(responses)
    return (share > 0) & (share < 1)


@needs("group")
def not_all_wrong(responses: Responses) -> BoolR:
    """Drop prompts whose responses are all wrong."""
    return share_correct(responses) > 0


@needs("group")
def not_all_correct(responses: Responses) -> BoolR:
    """Drop prompts whose responses are all correct."""
    return share_correct(responses) < 1


@needs("group")
def enough_of_both(responses: Responses) -> BoolR:
    """Where a prompt has right and wrong responses for half a group each (Reinforce-Ada, arXiv 2510.04996)."""
    group = groups(responses.prompt_R, responses.correct_R.astype(np.float64))
    right_R, half = group.mean * group.size, max(1, responses.samples // 2)
    enough_R: BoolR = np.minimum(right_R, group.size - right_R) >= half
    return enough_R


@needs("group")
def balanced(responses: Responses) -> BoolR:
    """Keep `samples` responses a prompt, drawn by the seed: half of them right, half wrong, or more of what there is.

    The other responses are there for the baseline alone (Reinforce-Ada, arXiv 2510.04996).
    """
    size = responses.samples or len(responses)
    order = np.random.default_rng(responses.seed).permutation(len(responses))
    keep_R = np.zeros(len(responses), dtype=bool)
    for prompt in np.unique(responses.prompt_R):
        mine = order[responses.prompt_R[order] == prompt]
        right, wrong = (mine[responses.correct_R[mine] == side] for side in (True, False))
        taken = min(len(right), max(size - size // 2, size - len(wrong)))
        keep_R[right[:taken]] = keep_R[wrong[: size - taken]] = True
    return keep_R


@needs("group", "pair")
def best_and_worst(responses: Responses) -> BoolR:
    """Keep one pair a prompt: highest against lowest reward, ties broken by the seed; uniform groups are skipped."""
    return pair_sign(responses, responses.reward_R).astype(bool)


# --- advantage: what one response is worth --------------------------------------------------------


def one(responses: Responses, shaped_R: FloatR) -> FloatR:
    """1 for every kept response: plain likelihood (RAFT)."""
    return np.ones(len(responses))


def reward(responses: Responses, shaped_R: FloatR) -> FloatR:
    """The shaped reward itself: Reinforce without a baseline (eq. 5)."""
    return shaped_R.astype(np.float64)


@needs("group")
def group_centred(responses: Responses, shaped_R: FloatR) -> FloatR:
    """r - mean(r) within the prompt (Dr. GRPO, arXiv 2503.20783)."""
    return shaped_R - groups(responses.prompt_R, shaped_R).mean


@needs("group")
def group_zscore(responses: Responses, shaped_R: FloatR) -> FloatR:
    """(r - mean(r)) / (std(r) + 1e-6) within the prompt, n-1 std (GRPO, arXiv 2402.03300)."""
    group = groups(responses.prompt_R, shaped_R)
    return (shaped_R - group.mean) / (group.std + STD_EPS)


@needs("group")
def over_group_std(responses: Responses, shaped_R: FloatR) -> FloatR:
    """r / (std(r) + 1e-6) within the prompt: the paper's 'Reinforce-Rej + std' ablation."""
    group = groups(responses.prompt_R, shaped_R)
    return np.where(group.constant, 0.0, shaped_R / (group.std + STD_EPS))


@needs("group")
def leave_one_out(responses: Responses, shaped_R: FloatR) -> FloatR:
    """r - mean of the others = (r - mean) n / (n - 1) (RLOO, arXiv 2402.14740)."""
    group = groups(responses.prompt_R, shaped_R)
    advantage_R: FloatR = (shaped_R - group.mean) * group.size / np.maximum(group.size - 1, 1)
    return advantage_R


@needs("greedy")
def minus_greedy(responses: Responses, shaped_R: FloatR) -> FloatR:
    """r - r(greedy response of the same prompt), both shaped (ReMax, arXiv 2310.10505)."""
    assert responses.greedy_R is not None
    advantage_R: FloatR = shaped_R - responses.greedy_R
    return advantage_R


def batch_zscore(responses: Responses, shaped_R: FloatR) -> FloatR:
    """(r - mean) / (std + 1e-6) over all sampled responses of all ranks (REINFORCE++, arXiv 2501.03262)."""
    batch = groups(np.zeros(len(responses), dtype=np.int64), shaped_R)
    return (shaped_R - batch.mean) / (batch.std + STD_EPS)


@needs("group", "pair")
def pair_sign(responses: Responses, shaped_R: FloatR) -> FloatR:
    """+1 for the best response of each prompt, -1 for the worst, 0 for the rest and for uniform groups (DPO)."""
    group = groups(responses.prompt_R, responses.reward_R)
    tie = np.random.default_rng(responses.seed).random(len(responses))
    order = np.lexsort((tie, responses.reward_R, group.index))
    first = np.flatnonzero(np.diff(group.index[order], prepend=-1))
    last = np.append(first[1:], len(order)) - 1
    sign = np.zeros(len(responses))
    sign[order[first]] = -1.0
    sign[order[last]] = 1.0
    return np.where(group.constant, 0.0, sign)
