"""Ten thousand hostile responses through the pool: each gets the verdict that its making demands, within the limit."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from hostile import MEGABYTE, Case, cases, gym_case, letter_case, math_case, number_case, shown, slow_case, unboxed_case

from sieverl.verify import Pool
from sieverl.verify.process import Worker

LIMIT_S = 4.0
GRACE_S = 60.0  # a busy machine; a stall is longer
MATH, LENIENT = {"name": "math"}, {"name": "math", "rules": "lenient"}
# verifier, what makes its cases, how many of 10,000
PLAN: list[tuple[dict[str, Any], Callable[[Random], Case], int]] = [
    (MATH, math_case, 3500),
    (MATH, slow_case, 6),
    (MATH, unboxed_case, 494),
    (LENIENT, math_case, 500),
    ({"name": "number"}, number_case, 3000),
    ({"name": "choice"}, letter_case, 1000),
    ({"name": "string"}, letter_case, 1000),
    ({"name": "reasoning_gym"}, gym_case, 500),
]


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """What the pool does while a test runs: the replies that it waited for, and `longest`, its longest wait in s."""
    found: Counter[str] = Counter()
    reply = Worker.reply

    def recorded(self: Worker, timeout_s: float) -> Any:
        began = time.monotonic()
        try:
            return reply(self, timeout_s)
        finally:
            found["replies"] += 1
            found["longest"] = max(found["longest"], time.monotonic() - began)  # type: ignore[assignment]

    monkeypatch.setattr(Worker, "reply", recorded)
    return found


def verify_all(spec: dict[str, Any], made: list[Case], waits: Counter[str]) -> tuple[Counter[str], Pool]:
    """The statuses of all cases, each of which is one that the case may have, and within the limit."""
    slowest = 0.0
    with Pool(spec, workers=2, timeout_s=LIMIT_S, memory_mb=512) as pool:
        for key, case in enumerate(made):
            began = time.monotonic()
            pool.submit(key, case.response, case.row)
            slowest = max(slowest, time.monotonic() - began)
        verdicts = pool.collect()
    assert set(verdicts) == set(range(len(made))), "each response has one verdict"
    wrong = [f"{verdicts[key]} for {shown(case)}" for key, case in enumerate(made) if not holds(verdicts[key], case)]
    assert not wrong, "\n".join(wrong[:5])
    assert slowest < LIMIT_S + GRACE_S, "what needs no worker stalled the process that trains"
    assert waits["longest"] < LIMIT_S + GRACE_S
    return Counter(verdict.status.value for verdict in verdicts.values()), pool


def holds(verdict: Any, case: Case) -> bool:
    """Whether the verdict is one that the case may have; reasoning-gym gives a wrong answer up to 0.05."""
    right = case.statuses == ("correct",)
    reward = verdict.reward == 1 if right else verdict.reward <= ("metadata" in case.row) * 0.05
    return verdict.status.value in case.statuses and verdict.correct is right and reward


def run_plan(share: int, seed: int, waits: Counter[str]) -> Counter[str]:
    """One part in `share` of the plan. Verifiers with several makers have one pool."""
    total: Counter[str] = Counter()
    for spec in {str(spec): spec for spec, _, _ in PLAN}.values():
        made = [
            case
            for other, make, count in PLAN
            if other == spec
            for case in cases(make, count // share if make is not slow_case or share == 1 else 1, seed)
        ]
        Random(seed).shuffle(made)
        statuses, pool = verify_all(spec, made, waits)
        assert pool.timeouts == statuses["verifier_timeout"]
        assert pool.restarts == pool.timeouts + pool.reasons["out of memory"] + sum("died" in r for r in pool.reasons)
        total += statuses
        total["megabytes"] += sum(len(case.response) >= MEGABYTE for case in made)
        total["restarts"] += pool.restarts
    return total


def test_300_hostile_responses(waits: Counter[str]) -> None:
    total = run_plan(40, 1, waits)
    assert sum(total[status] for status in ("correct", "incorrect", "no_answer", "verifier_error")) > 240
    assert total["verifier_timeout"] <= 3, "the one that no limit on size refuses, and two on a busy machine"


@pytest.mark.slow
def test_2_000_hostile_responses(waits: Counter[str]) -> None:
    total = run_plan(5, 2, waits)
    assert total["correct"] > 600
    assert total["incorrect"] > 600
    assert total["verifier_timeout"] <= 12


@pytest.mark.faults
@pytest.mark.timeout(3600)
def test_10_000_hostile_responses(waits: Counter[str]) -> None:
    total = run_plan(1, 0, waits)
    verdicts = sum(count for name, count in total.items() if name not in ("megabytes", "restarts"))
    print(dict(total), dict(waits))
    assert verdicts == sum(count for _, _, count in PLAN) == 10_000
    assert total["correct"] > 3000
    assert total["incorrect"] > 3000
    assert total["verifier_timeout"] <= 60
    assert total["megabytes"] > 20
