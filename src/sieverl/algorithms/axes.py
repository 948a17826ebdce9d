"""Change some axes of an algorithm by name, as a recipe's [axes] table does: the algorithm stays a flag."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor

from sieverl.algorithms import objective as obj
from sieverl.algorithms.algorithm import Algorithm
from sieverl.algorithms.credit import OverlongShaped, batch_zscore, reward, signed, zero_one
from sieverl.algorithms.objective import Clipped, Penalty
from sieverl.algorithms.sieve import with_sieve
from sieverl.algorithms.token_advantage import Gae, KlInReward
from sieverl.algorithms.tokens import Tokens
from sieverl.errors import UsageError
from sieverl.types import JsonObject

SIEVE = {"sieve": "threshold", "sieve_explore": "explore"}
CLIPS = {"clip_low": "low", "clip_high": "high", "dual_clip": "dual"}


def inapplicable(algorithm: Algorithm, axes: JsonObject) -> list[str]:
    """Those of `axes` that mean nothing to `algorithm` and are left out: clips of a ratio that it does not clip.

    >>> from sieverl.algorithms import grpo, raft
    >>> inapplicable(raft, {"dual_clip": 3.0, "shape": "signed"}), inapplicable(grpo, {"dual_clip": 3.0})
    (['dual_clip'], [])
    """
    return [] if isinstance(algorithm.objective, Clipped) else [axis for axis in axes if axis in CLIPS]


def _refuse_for_pairs(axes: JsonObject) -> None:
    """A pair objective takes whole responses, the best and the worst: name all axes that would not mean anything."""
    wrong = [axis for axis in axes if axis in ("aggregate", "denominator", "kl_in_reward", *CLIPS)]
    wrong += [
        axis for axis, plain in (("shape", "signed"), ("penalty_denominator", "kept")) if axes.get(axis, plain) != plain
    ]
    if wrong:
        names = ", ".join(f"axes.{axis}" for axis in axes if axis in wrong)
        raise UsageError(f"an algorithm that learns from pairs (iterative_dpo) has no use for {names}; leave them out")


def with_axes(algorithm: Algorithm, axes: JsonObject) -> Algorithm:
    """`algorithm` with some axes replaced by name, as a recipe's [axes] table does it; without those `inapplicable`.

    >>> from sieverl.algorithms import grpo
    >>> with_axes(grpo, {"aggregate": "token_mean", "clip_high": 0.28}).objective
    Clipped(low=0.2, high=0.28, dual=None)
    """
    if algorithm.aggregate.unit == "pair":
        _refuse_for_pairs(axes)
    choices: dict[str, dict[str, object]] = {
        "shape": {"signed": signed, "zero_one": zero_one, "overlong": OverlongShaped()},
        "aggregate": {a.name: a for a in (obj.sequence_mean, obj.token_mean, obj.constant_length)},
        "denominator": {"sampled": "sampled", "kept": "kept"},
    }
    changes: dict[str, Any] = {}
    for axis, value in axes.items():
        if axis not in choices:
            continue
        if value not in choices[axis]:
            raise UsageError(f"axes.{axis} is one of {', '.join(choices[axis])}, not {value!r}")
        changes[axis] = choices[axis][value]
    clip = {CLIPS[axis]: value for axis, value in axes.items() if axis in CLIPS}
    if clip and isinstance(algorithm.objective, Clipped):
        changes["objective"] = replace(algorithm.objective, **clip)
    sieve = {SIEVE[axis]: value for axis, value in axes.items() if axis in SIEVE}
    if sieve:
        if "sieve" not in axes and algorithm.sampling.sieve is None:
            raise UsageError("axes.sieve_explore changes nothing without axes.sieve; set that above 0, such as 0.5")
        algorithm = with_sieve(algorithm, **sieve)
    penalties = list(algorithm.penalties)
    denominator = axes.get("penalty_denominator", "kept")
    if axes.get("kl_coefficient", 0):
        kinds: dict[str, Callable[[Tokens], Tensor]] = {"k1": obj.k1, "k2": obj.k2, "k3": obj.K3(axes.get("kl_limit"))}
        penalties.append(Penalty(kinds[axes.get("kl", "k2")], axes["kl_coefficient"], denominator))
    if axes.get("entropy_coefficient", 0):
        penalties.append(Penalty(obj.negative_entropy, axes["entropy_coefficient"], denominator))
    if axes.get("kl_in_reward", 0):
        kl = axes["kl_in_reward"]
        if isinstance(algorithm.token_advantage, Gae):
            changes["token_advantage"] = replace(algorithm.token_advantage, kl=kl)
        elif algorithm.advantage is batch_zscore:
            changes |= {"advantage": reward, "token_advantage": KlInReward(kl), "whiten": True}
        else:
            raise UsageError("axes.kl_in_reward needs per-token advantages: ppo or reinforce_pp")
    return replace(algorithm, penalties=tuple(penalties), **changes)
