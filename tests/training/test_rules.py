"""Each rule fires where it should and not just before; a warning is said once; what rules remember is resumed."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any, cast

import pytest
from conftest import ROOT

from sieverl.distributed.world import World
from sieverl.errors import Alarm
from sieverl.recipe import build
from sieverl.training.alarms import check_alarms, stop_if, warnings
from sieverl.training.records import record
from sieverl.training.rules import RULES, Found, markdown
from sieverl.training.state import Run, State
from sieverl.types import Metrics

START: Metrics = {
    "step": 0,
    "eval/heldout/avg@4": 0.025,
    "eval_ci/heldout/avg@4/low": 0.016,
    "eval_ci/heldout/avg@4/high": 0.034,
    "eval/heldout/kl_ref": 0.0,
}
HEALTHY: Metrics = {
    "reward/std": 0.4,
    "reward/accuracy": 0.3,
    "select/kept_fraction": 0.4,
    "select/all_wrong": 0.5,
    "select/all_correct": 0.1,
    "select/empty_steps": 0.0,
    "policy/entropy": 0.3,
    "policy/kl_old": 0.01,
    "policy/engine_mismatch": 1e-7,
    "rollout/responses": 256.0,
    "rollout/length_mean": 100.0,
    "rollout/truncated": 0.1,
    "verify/errors": 1.0,
    "verify/timeouts": 1.0,
    "nonfinite/losses": 0.0,
}
LOW = {"eval_ci/heldout/avg@4/low": 0.004}  # that of a later evaluation, which does not matter

# rule -> what differs in the rows that fire it, what in rows that come near, and how many of the former it takes
CASES: dict[str, tuple[Metrics, Metrics, int]] = {
    "empty_steps": ({"select/empty_steps": 20.0}, {"select/empty_steps": 19.0}, 1),
    "nonfinite_steps": ({"nonfinite/losses": 1.0}, {"nonfinite/losses": 0.0}, 3),
    "engine_mismatch": ({"policy/engine_mismatch": 0.002}, {"policy/engine_mismatch": 0.0009}, 1),
    "little_kept": ({"select/kept_fraction": 0.04}, {"select/kept_fraction": 0.06}, 40),
    "reward_zero": ({"reward/accuracy": 0.0, "reward/std": 0.0}, {"reward/accuracy": 1 / 256}, 10),
    "reward_one": ({"reward/accuracy": 1.0, "reward/std": 0.0}, {"reward/accuracy": 255 / 256}, 10),
    "entropy": ({"policy/entropy": 0.009}, {"policy/entropy": 0.011}, 5),
    "kl_old": ({"policy/kl_old": 0.21}, {"policy/kl_old": 0.19}, 3),
    "kl_ref": ({"eval/heldout/kl_ref": 1.3}, {"eval/heldout/kl_ref": 0.9}, 1),
    "length": ({"rollout/length_mean": 401.0}, {"rollout/length_mean": 399.0}, 5),
    "truncated": ({"rollout/truncated": 1.0}, {"rollout/truncated": 255 / 256}, 10),
    "verifier_errors": ({"verify/errors": 26.0}, {"verify/errors": 25.0}, 3),
    "verifier_timeouts": ({"verify/timeouts": 26.0}, {"verify/timeouts": 25.0}, 3),
    "heldout": ({"eval/heldout/avg@4": 0.008, **LOW}, {"eval/heldout/avg@4": 0.016, **LOW}, 1),
}
STOPS = {"empty_steps", "nonfinite_steps", "engine_mismatch", "truncated"}


def a_run(alarms: dict[str, Any] | None = None, state: State | None = None, **tables: Any) -> Run:
    """What rules look at of a run."""
    recipe = build({"alarms": alarms or {}, **tables})
    stub = SimpleNamespace(recipe=recipe, state=state or State(), nonfinite={}, world=World(1, 2))  # rank 0 would write
    return cast(Run, stub)


def take(run: Run, row: Metrics) -> list[Found]:
    """What fires in a step."""
    record(run, row)
    return check_alarms(run, row)


def fired(run: Run, rows: Iterable[Metrics]) -> list[list[str]]:
    """The names of the rules that fire in each step after the start and a healthy one."""
    assert take(run, START) == []
    assert take(run, HEALTHY) == []
    return [[found.rule.name for found in take(run, HEALTHY | row)] for row in rows]


def test_every_rule_has_a_case() -> None:
    assert list(CASES) == [rule.name for rule in RULES]


@pytest.mark.parametrize("name", CASES)
def test_a_rule_fires_when_its_threshold_is_passed_for_long_enough(name: str) -> None:
    broken, _, steps = CASES[name]
    assert fired(a_run(), [broken] * steps) == [*[[]] * (steps - 1), [name]]


@pytest.mark.parametrize("name", CASES)
def test_a_rule_does_not_fire_just_before(name: str) -> None:
    broken, near, steps = CASES[name]
    assert not any(fired(a_run(), [near] * 60))
    if steps > 1 and name != "little_kept":
        assert not any(fired(a_run(), ([broken] * (steps - 1) + [near]) * 3)), "not in a row"


@pytest.mark.parametrize("name", CASES)
def test_what_a_rule_says_has_no_gaps_and_names_a_way_on(name: str) -> None:
    broken, _, steps = CASES[name]
    run = a_run()
    fired(run, [broken] * (steps - 1))
    (found,) = take(run, HEALTHY | broken)
    assert not set("{}") & set(str(found))
    if name not in STOPS:
        stop_if([found])
        (note,) = warnings([found])
        assert note.urgent
        assert note.text.startswith(f"alarm {name}: ")
        return
    assert warnings([found]) == []
    with pytest.raises(Alarm, match=rf"or set alarms\.{name}.* to go on") as alarm:
        stop_if([found])
    key = str(alarm.value).rpartition("or set alarms.")[2].removesuffix(" to go on")
    dotted, _, value = key.partition(" = ")
    on = build({}, {f"alarms.{dotted}": value.strip('"')})
    assert not [f for f in check_alarms(a_run(on.alarms.model_dump(exclude_none=True)), HEALTHY | broken) if
                f.setting.do == "stop"]  # fmt: skip


def test_a_warning_is_said_when_it_begins_and_again_only_after_it_has_passed() -> None:
    low, well = CASES["entropy"][0], {"policy/entropy": 0.3}
    run = a_run()
    assert fired(run, [low] * 30) == [*[[]] * 4, ["entropy"], *[[]] * 25]
    assert not any(take(run, HEALTHY | row) for row in [well, low, low, low, low, low]), "it had not passed"
    assert not any(take(run, HEALTHY | row) for row in [well] * 5)
    assert [bool(take(run, HEALTHY | low)) for _ in range(5)] == [False] * 4 + [True]


def test_a_stop_goes_on_firing_so_that_a_resumed_run_stops_too() -> None:
    run = a_run({"entropy": "stop"})
    assert fired(run, [CASES["entropy"][0]] * 7)[4:] == [["entropy"]] * 3


@pytest.mark.parametrize("name", CASES)
def test_a_rule_that_is_off_says_nothing_and_remembers_nothing(name: str) -> None:
    broken, _, steps = CASES[name]
    off = 0 if name in ("empty_steps", "nonfinite_steps", "engine_mismatch") else "off"
    run = a_run({name: off})
    assert not any(fired(run, [broken] * (steps + 1)))
    assert name not in run.state.watched.recent


def test_what_rules_remember_survives_a_checkpoint() -> None:
    run = a_run({"entropy": "stop"})
    rows = [CASES["entropy"][0] | CASES["length"][0]] * 4
    assert not any(fired(run, rows))
    saved = json.loads(json.dumps(asdict(run.state)))
    again = a_run({"entropy": "stop"}, State.of(saved, 0))
    assert again.state == run.state
    assert [f.rule.name for f in take(again, HEALTHY | rows[0])] == ["entropy", "length"]
    del saved["watched"]
    assert State.of(saved, 0).watched.recent == {}, "a checkpoint from before there were rules"


def test_the_run_that_was_seen_is_found() -> None:
    """Sums of 5 to 6 terms: nearly every step is empty, an odd mixed prompt resets the count, and accuracy falls."""
    run = a_run()
    rows: list[Metrics] = [
        {"select/kept_fraction": 8 / 256 if step % 9 == 0 else 0.0, "select/empty_steps": float(step % 9)}
        for step in range(60)
    ]
    rows[59] |= {"eval/heldout/avg@4": 0.008, "eval/heldout/kl_ref": 1.3, **LOW}
    names = fired(run, rows)
    assert [(step, name) for step, found in enumerate(names) for name in found] == [
        (39, "little_kept"),
        (59, "kl_ref"),
        (59, "heldout"),
    ]


def test_graded_rewards_that_differ_are_not_stuck() -> None:
    run = a_run(state=State(graded=True))
    assert not any(fired(run, [{"reward/accuracy": 0.0, "reward/std": 0.2}] * 20))
    assert fired(run, [{"reward/accuracy": 0.0, "reward/std": 0.0}] * 10)[9] == ["reward_zero"]


def test_numbers_that_are_nan_or_missing_fire_nothing() -> None:
    run = a_run()
    assert take(run, START) == []
    broken = {name: math.nan for name in HEALTHY if not name.startswith(("nonfinite", "select/empty"))}
    assert not any(take(run, broken) for _ in range(50))
    assert not any(take(run, {"step": 1}) for _ in range(50))


def test_bfloat16_and_staleness_widen_the_mismatch() -> None:
    gap = {"policy/engine_mismatch": 0.4}
    assert fired(a_run(dtype="bfloat16"), [gap]) == [[]]
    assert fired(a_run(rollout={"staleness": 1}), [gap]) == [[]]
    assert fired(a_run({"engine_mismatch": 0.3}, dtype="bfloat16"), [gap]) == [["engine_mismatch"]]


def test_the_page_has_the_table_of_the_rules() -> None:
    assert markdown() in (ROOT / "docs" / "alarms.md").read_text()
