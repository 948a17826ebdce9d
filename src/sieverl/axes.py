"""Change some axes of an algorithm by name, as a recipe's [axes] table does: the algorithm stays a flag."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor

from sieverl import objective as obj
from sieverl.algorithm import Algorithm
from sieverl.credit import OverlongShaped, batch_zscore, signed, zero_one
from sieverl.errors import UsageError
from sieverl.objective import Clipped, Gae, Penalty, Tokens


def with_axes(algorithm: Algorithm, axes: dict[str, Any]) -> Algorithm:
    """`algorithm` with some axes replaced by name, as a recipe's [axes] table does it.

    >>> from sieverl.algorithms import grpo
    >>> with_axes(grpo, {"aggregate": "token_mean", "clip_high": 0.28}).objective
    Clipped(low=0.2, high=0.28, dual=None)
    """
    choices: dict[str, dict[str, Any]] = {
        "shape": {"signed": signed, "zero_one": zero_one, "overlong": OverlongShaped()},
        "aggregate": {a.name: a for a in (obj.sequence_mean, obj.token_mean, obj.constant_length)},
        "over": {"sampled": "sampled", "kept": "kept"},
    }
    changes: dict[str, Any] = {}
    for axis, value in axes.items():
        if axis not in choices:
            continue
        if value not in choices[axis]:
            raise UsageError(f"axes.{axis} is one of {', '.join(choices[axis])}, not {value!r}")
        changes[axis] = choices[axis][value]
    clip = {key.removeprefix("clip_"): value for key, value in axes.items() if key in ("clip_low", "clip_high")}
    if "dual_clip" in axes:
        clip["dual"] = axes["dual_clip"]
    if clip:
        if not isinstance(algorithm.objective, Clipped):
            raise UsageError("axes.clip_low, clip_high and dual_clip need an objective that clips the ratio")
        changes["objective"] = replace(algorithm.objective, **clip)
    penalties = list(algorithm.penalties)
    over = axes.get("penalty_over", "kept")
    if axes.get("kl_coefficient", 0):
        kinds: dict[str, Callable[[Tokens], Tensor]] = {"k1": obj.k1, "k2": obj.k2, "k3": obj.K3(axes.get("kl_limit"))}
        penalties.append(Penalty(kinds[axes.get("kl", "k2")], axes["kl_coefficient"], over))
    if axes.get("entropy_coefficient", 0):
        penalties.append(Penalty(obj.negative_entropy, axes["entropy_coefficient"], over))
    if axes.get("kl_in_reward", 0):
        kl = axes["kl_in_reward"]
        if isinstance(algorithm.spread, Gae):
            changes["spread"] = replace(algorithm.spread, kl=kl)
        elif algorithm.advantage is batch_zscore:
            changes["spread"] = obj.KlInReward(kl)
        else:
            raise UsageError("axes.kl_in_reward needs per-token advantages: ppo or reinforce_pp")
    return replace(algorithm, penalties=tuple(penalties), **changes)
