"""Verification: from a response and its row to a verdict (reward, correct, status), in processes that can be killed.

`build` makes a verifier from the recipe's [verify] table, `Pool` runs it under limits of time and memory, `check_gold`
asks whether the gold answers verify. docs/verifiers.md says what each verifier accepts.
"""

from sieverl.verify.check import Check, stop_if_all_failed
from sieverl.verify.pool import Pool
from sieverl.verify.registry import VERIFIERS, build, check_gold, describe, gold_response, is_graded, options

__all__ = [
    "VERIFIERS",
    "Check",
    "Pool",
    "build",
    "check_gold",
    "describe",
    "gold_response",
    "is_graded",
    "options",
    "stop_if_all_failed",
]
