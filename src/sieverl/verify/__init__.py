"""Verification: from a response and its row to a verdict (reward, correct, status), in processes that can be killed.

`build` makes a verifier from the recipe's [verify] table, `Pool` runs it under limits of time and memory, `check_gold`
asks whether the gold answers verify. docs/verifiers.md says what each verifier accepts.
"""

from __future__ import annotations

from sieverl.verify.check import Verifier, stop_if_all_failed
from sieverl.verify.pool import Pool, check_gold
from sieverl.verify.registry import VERIFIERS, build, describe, gold_response, is_graded, options

__all__ = [
    "VERIFIERS",
    "Pool",
    "Verifier",
    "build",
    "check_gold",
    "describe",
    "gold_response",
    "is_graded",
    "options",
    "stop_if_all_failed",
]
