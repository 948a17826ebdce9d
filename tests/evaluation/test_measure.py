"""Sampling, verifying and counting: what training and `sieverl eval` share, worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from fakes import Reciting, environment, on_ranks

from sieverl.distributed.world import World
from sieverl.evaluation.measure import Record, measure
from sieverl.types import Status

ANSWERS = ["4", "7", "1", "9"]
SAID = {
    0: ["so 4\n", "4.0\n", "5\n", "none\n"],  # 2 right, majority right
    1: ["7\n", "8\n", "8\n", "7" * 99],  # 1 right, majority wrong, one truncated
    2: ["1" * 99] * 4,  # all truncated
    3: ["9\n", "none\n", "none\n", "none\n"],  # one answer outvotes silence
}
SPEC = {"name": "number"}


def test_records_and_summary_by_hand() -> None:
    measured = measure(*environment(Reciting(SAID), ANSWERS), 4, SPEC)
    records, scored = measured.records, measured.scored
    assert [sum(one.correct) for one in records] == [2, 1, 0, 1]
    assert [one.majority for one in records] == [True, False, False, True]
    assert records[0].answers == ("4", "4", "5", None)
    assert records[1].statuses == (Status.CORRECT, Status.INCORRECT, Status.INCORRECT, Status.TRUNCATED)
    assert records[1].lengths == (2, 2, 2, 40)
    assert [s.text for s in scored[:2]] == ["so 4", "4.0"]
    found = measured.summary
    assert found.scores["avg@4"][0] == 4 / 16
    assert found.scores["pass@2"][0] == pytest.approx((5 / 6 + 1 / 2 + 0 + 1 / 2) / 4)
    assert found.scores["maj@4"][0] == 2 / 4
    assert found.shares["truncated"] == 5 / 16
    assert found.shares["no_answer"] == 4 / 16
    assert found.shares["verifier_timeout"] == found.shares["verifier_error"] == 0


def test_ranks_share_the_prompts_and_know_all_records() -> None:
    whole = measure(*environment(Reciting(SAID), ANSWERS), 4, SPEC).records

    def rank(world: World) -> tuple[Sequence[Record], set[int]]:
        measured = measure(*environment(Reciting(SAID), ANSWERS, world=world), 4, SPEC)
        return measured.records, {scored.rollout.prompt_id for scored in measured.scored}

    assert on_ranks(2, rank) == [(whole, {0, 2}), (whole, {1, 3})]
