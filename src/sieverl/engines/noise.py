"""Sampling noise without state: one uniform a token, a pure function of (seed, prompt, sample, position).

A response therefore does not depend on which others were in its batch, on which rank sampled it, or on a resume.
Legend: R responses.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sieverl.types import FloatArray, IntArray

Bits = NDArray[np.uint64]
_STEP = np.uint64(0x9E3779B97F4A7C15)


def _mix(x: Bits) -> Bits:
    """SplitMix64's finaliser (Steele et al. 2014): 64 bits in, 64 well-mixed bits out."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def keys(seed: IntArray, prompt: IntArray, sample: IntArray) -> Bits:
    """One 64-bit key for each response, uint64 [R].

    >>> a, b = keys(np.array([0, 0]), np.array([5, 5]), np.array([0, 1]))
    >>> bool(a != b)
    True
    """
    with np.errstate(over="ignore"):
        key = np.zeros(np.broadcast(seed, prompt, sample).shape, dtype=np.uint64)
        for part in (seed, prompt, sample):
            key = _mix(key + _STEP + np.asarray(part).astype(np.int64).view(np.uint64))
    return key


def derived_seed(seed: int, number: int) -> int:
    """The seed of the epoch or step `number`, so that each has different noise: a number of 63 bits.

    >>> derived_seed(0, 3), derived_seed(1, 3), derived_seed(2**62, 3) < 2**63
    (3, 1000006, True)
    """
    return (seed * 1_000_003 + number) % 2**63


def uniforms(key_R: Bits, position_R: IntArray | int) -> FloatArray:
    """Uniforms in [0, 1) for the token at `position_R` of each response, float64 [R]."""
    with np.errstate(over="ignore"):
        bits = _mix(key_R + _STEP * np.asarray(position_R).astype(np.uint64))
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
