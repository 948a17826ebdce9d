"""The page of named algorithms: values that can be compared, found by name or in a file, told in words."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sieverl.algorithms import ALGORITHMS, Algorithm, Critic, DynamicSampling, credit, get_algorithm
from sieverl.algorithms import objective as obj
from sieverl.algorithms.axes import with_axes
from sieverl.algorithms.credit import OverlongShaped, correct, group_zscore, minus_greedy
from sieverl.algorithms.describe import describe, explain, formula, markdown
from sieverl.algorithms.needs import needs_of
from sieverl.algorithms.objective import K3, Clipped, ClippedWeight, PairLogistic, Penalty
from sieverl.algorithms.token_advantage import Gae, KlInReward
from sieverl.algorithms.tokens import Denominator, Tokens
from sieverl.errors import UsageError

PARTS = [
    *(OverlongShaped(), Clipped(), ClippedWeight(), PairLogistic(), K3(), Penalty(obj.k2, 0.1), Gae(), KlInReward()),
    *(DynamicSampling(), Critic(), obj.sequence_mean),
]


@pytest.mark.parametrize("part", PARTS, ids=lambda part: type(part).__name__)
def test_a_part_of_an_algorithm_is_a_value(part: Any) -> None:
    """Equal, hashable, not to be changed: an algorithm can be compared, and be a key."""
    assert replace(part) == part
    assert hash(replace(part)) == hash(part)
    with pytest.raises(FrozenInstanceError):
        setattr(part, next(iter(vars(part))), None)


def test_tokens_and_denominators_do_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        setattr(Denominator([1], [1], 0, 1), "pairs", 1)  # noqa: B010 (mypy knows that it is frozen)
    with pytest.raises(FrozenInstanceError):
        setattr(Tokens(torch.zeros(1), torch.zeros(1).long(), torch.zeros(1)), "old_T", None)  # noqa: B010


def test_named_algorithms_differ() -> None:
    assert len(set(ALGORITHMS.values())) == len(ALGORITHMS) == 21
    assert len({replace(value, about="", paper="") for value in ALGORITHMS.values()}) == 21


def test_what_parts_are_by_default() -> None:
    assert OverlongShaped() == OverlongShaped(0.2)
    assert Clipped() == Clipped(0.2, 0.2, None)
    assert ClippedWeight() == ClippedWeight(4.0)
    assert PairLogistic() == PairLogistic(0.1)
    assert K3() == K3(None)
    assert Penalty(obj.k2, 0.1) == Penalty(obj.k2, 0.1, "kept")
    assert Gae() == Gae(gamma=1.0, lam=1.0, kl=0.0)
    assert KlInReward() == KlInReward(0.001)
    assert DynamicSampling() == DynamicSampling(None, False, 1, False)
    assert Critic() == Critic(lr=1e-5, clip=0.2, warmup_updates=0, shared=False)


def test_an_algorithm_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("from sieverl import Algorithm\nbest = Algorithm(about='mine')\nbest_of = 3\n")
    assert get_algorithm(f"{file}:best") == Algorithm(about="mine")
    for name in ("worst", "best_of"):
        with pytest.raises(UsageError, match=f"has no sieverl.Algorithm named '{name}'"):
            get_algorithm(f"{file}:{name}")
    with pytest.raises(UsageError, match=r"none\.py is not a file"):
        get_algorithm(f"{tmp_path}/none.py:best")
    file.write_text("1 / 0\n")
    with pytest.raises(UsageError, match=r"mine\.py cannot be imported: ZeroDivisionError"):
        get_algorithm(f"{file}:best")


def test_needs_are_the_union_of_what_the_parts_declare() -> None:
    needs = {name: set(value.needs) for name, value in ALGORITHMS.items()}
    assert needs["raft"] == set()
    assert needs["reinforce"] == needs["raft_pp"] == {"ratio"}
    assert needs["reinforce_rej"] == needs["grpo"] == needs["dapo"] == needs["gspo"] == {"group", "ratio"}
    assert needs["rloo"] == {"group"}
    assert needs["remax"] == {"greedy"}
    assert needs["ppo"] == {"value", "ratio"}
    assert needs["iterative_dpo"] == {"group", "pair", "ref"}
    assert Algorithm(advantage=minus_greedy).needs == {"greedy", "ratio"}, "without greedy_baseline, too"
    assert with_axes(get_algorithm("raft"), {"kl": "k3", "kl_coefficient": 1.0}).needs == {"ref"}
    assert with_axes(get_algorithm("raft"), {"entropy_coefficient": 1.0}).needs == {"entropy"}


def test_each_function_of_responses_declares_what_it_needs() -> None:
    declared = {
        "group": "mixed_groups not_all_wrong not_all_correct enough_of_both balanced "
        "group_centred group_zscore over_group_std leave_one_out",
        "group pair": "best_and_worst pair_sign",
        "greedy": "minus_greedy",
        "": "correct everything one reward signed zero_one batch_zscore",
    }
    for needs, functions in declared.items():
        for name in functions.split():
            assert needs_of(getattr(credit, name)) == set(needs.split()), name


def test_axes_in_words() -> None:
    assert describe(group_zscore) == "group_zscore"
    assert describe(obj.token_mean) == "token_mean"
    assert describe(Clipped(0.2, 0.28)) == "Clipped(low=0.2, high=0.28)"
    assert describe(DynamicSampling()) == "once"
    assert describe(DynamicSampling(greedy_baseline=True)) != "once"
    assert explain(correct).startswith("Keep correct responses;")
    assert explain("sampled") == "", "only what can be called explains itself"
    assert "\n" not in explain(OverlongShaped())


def test_formulas_by_hand() -> None:
    said = {
        "reinforce": "loss = 1/(sampled responses) sum over kept [everything] of 1/|a| sum_t "
        "Clipped(low=0.2, high=0.2)(A_t) with s per_token; A = reward",
        "dapo": "loss = 1/(kept tokens) sum over kept [mixed_groups] of sum_t "
        "Clipped(low=0.2, high=0.28)(A_t) with s per_token; A = group_zscore",
        "rloo": "loss = 1/(sampled responses * max_tokens) sum over kept [everything] of sum_t log_prob(A_t); "
        "A = leave_one_out",
        "iterative_dpo": "loss = 1/(pairs) sum over kept [best_and_worst] of PairLogistic(beta=0.1)(A_t); "
        "A = pair_sign",
    }
    assert {name: formula(get_algorithm(name)) for name in said} == said
    assert formula(get_algorithm("ppo")).endswith("A = reward, by token Gae(gamma=1.0, lam=1.0)")
    with_kl = with_axes(get_algorithm("raft"), {"kl": "k2", "kl_coefficient": 0.5})
    assert "log_prob(A_t) + 0.5 k2 over kept; A = one" in formula(with_kl)


def test_the_table_has_a_row_for_each_algorithm() -> None:
    lines = markdown().splitlines()
    assert lines[0] == "| algorithm | select | advantage | ratio | objective | aggregate | denominator |"
    assert "| `raft` | correct | one | per_token | log_prob | sequence_mean | 'kept' |" in lines
    assert len(lines) == 2 + len(ALGORITHMS)
