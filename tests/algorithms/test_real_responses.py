"""What each algorithm keeps of real responses: 300 GSM8K questions, each answered by four systems."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import SHARED

import sieverl
from sieverl.algorithms import ALGORITHMS
from sieverl.types import FloatArray

KEPT = {  # responses kept of 300 prompts x 4: 96 prompts all wrong, 42 all right, 162 mixed
    "raft": 465,
    "raft_pp": 465,
    "reinforce": 1200,
    "reinforce_rej": 648,
    "reinforce_rej_std": 648,
    "reinforce_drop_wrong": 816,
    "reinforce_drop_correct": 1032,
    "reinforce_mean": 648,
    "grpo": 648,
    "dr_grpo": 648,
    "rloo": 648,
    "dapo": 648,
    "gspo": 648,
    "cispo": 648,
    "reinforce_ada": 648,
    "reinforce_pp": 1200,
    "ppo": 1200,
    "iterative_dpo": 324,
}


@pytest.fixture(scope="module")
def labels() -> FloatArray:
    path = SHARED / "gsm8k_labelled_solutions.jsonl"
    if not path.exists():
        pytest.skip("the labelled GSM8K solutions are not part of the project")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    systems = [k for k, v in rows[0].items() if isinstance(v, dict)]
    return np.array([[float(row[s]["is_correct"]) for s in systems] for row in rows])


@pytest.mark.parametrize("name", KEPT)
def test_real_groups_are_kept_exactly(labels: FloatArray, name: str) -> None:
    assert labels.shape == (300, 4)
    share = labels.mean(1)
    assert [(share == 0).sum(), (share == 1).sum(), ((share > 0) & (share < 1)).sum()] == [96, 42, 162]
    kept = sieverl.get_algorithm(name).credit(labels).keep
    assert kept.sum() == KEPT[name]
    mixed = (share > 0) & (share < 1)
    if KEPT[name] == 648:
        np.testing.assert_array_equal(kept, np.repeat(mixed[:, None], 4, 1))
    if name.startswith("raft"):
        np.testing.assert_array_equal(kept, labels == 1)


def test_every_algorithm_is_in_the_table_of_kept() -> None:
    assert set(ALGORITHMS) - set(KEPT) == {"raft_is", "raft_pp_clip_higher", "remax"}
