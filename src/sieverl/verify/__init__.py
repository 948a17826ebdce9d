"""Verification: from a response and its row to a verdict (reward, correct, status), in worker processes.

`build` makes a verifier from the recipe's [verify] table, `Pool` runs it under time and memory limits, `check_gold`
finds gold answers that do not verify. docs/verifiers.md says what each verifier accepts.
"""

from __future__ import annotations

from sieverl.verify.pool import Pool, check_gold
from sieverl.verify.registry import VERIFIERS, build, gold_response, is_graded, make_verifier, options
from sieverl.verify.verifier import Verifier, stop_if_all_failed

describe = make_verifier  # its former name

__all__ = [
    "VERIFIERS",
    "Pool",
    "Verifier",
    "build",
    "check_gold",
    "describe",
    "gold_response",
    "is_graded",
    "make_verifier",
    "options",
    "stop_if_all_failed",
]
