"""The tables of settings are those of TRL 1.16 and verl 0.9.1, in both directions, and the pages show them."""

from __future__ import annotations

import json

import pytest
from conftest import ROOT
from elsewhere import FIXTURES

from sieverl.migrate import trl_fields, verl_fields
from sieverl.migrate.rules import Rule, markdown, rule_of
from sieverl.migrate.trl import from_trl
from sieverl.migrate.trl_command import COMMAND
from sieverl.migrate.verl import from_verl
from sieverl.recipe import keys
from sieverl.recipe.names import ELSEWHERE

TRL = json.loads((FIXTURES / "trl-1.16.json").read_text())
VERL = json.loads((FIXTURES / "verl-0.9.1.json").read_text())
TABLES = {"from-trl": trl_fields.GRPO, "from-verl": {**verl_fields.POLICY, **verl_fields.OTHERS}}


def test_every_field_of_trl_has_its_rule_and_default_and_no_other_has() -> None:
    assert {name: rule.default for name, rule in trl_fields.GRPO.items()} == TRL


def test_every_setting_of_verl_has_a_rule_and_every_rule_a_setting() -> None:
    rules = {**verl_fields.POLICY, **verl_fields.OTHERS}
    assert not [name for name in VERL if rule_of(rules, name) is None]
    used = {id(rule_of(rules, name)) for name in VERL}
    gone = [name for name, rule in rules.items() if id(rule) not in used]
    assert gone == ["actor_rollout_ref.actor.megatron.*"]
    known = {name: rule for name, rule in rules.items() if name in VERL and "${" not in str(VERL[name])}
    wrong = {name: (rule.default, VERL[name]) for name, rule in known.items() if rule.default != VERL[name]}
    assert wrong == {}


@pytest.mark.parametrize("rules", [trl_fields.FIELDS, verl_fields.FIELDS, COMMAND], ids=["trl", "verl", "command"])
def test_rules_name_keys_that_are_there_or_say_why_there_is_none(rules: dict[str, Rule]) -> None:
    ours = {name for name, _ in keys()} | {"verify.parts"}
    for name, rule in rules.items():
        assert set(rule.ours) <= ours, name
        assert rule.ours or len(rule.about) > 8, f"{name} has neither a key nor a reason"
        assert rule.convert is None or len(rule.ours) == 1, name


def test_hints_for_typos_agree_with_the_tables() -> None:
    rules = {**verl_fields.FIELDS, **COMMAND, **trl_fields.FIELDS}
    by_last = {name.rpartition(".")[2]: rule for name, rule in rules.items()}
    different = {name for name, key in ELSEWHERE.items() if name in by_last and key not in by_last[name].ours}
    assert different <= {"response_length", "kl_coef"}, "verl has these twice, with another meaning"


@pytest.mark.parametrize("page", TABLES)
def test_the_page_has_the_table(page: str) -> None:
    of = {"from-trl": "TRL", "from-verl": "verl"}[page]
    assert markdown(TABLES[page], of) in (ROOT / "docs" / f"{page}.md").read_text()


def test_trackers_are_ours_or_listed() -> None:
    recipe, notes = from_trl({"report_to": ["wandb", "swanlab"], "run_name": "a", "project": "p"})
    assert (recipe.trackers.use, recipe.trackers.project, recipe.trackers.run_name) == (("wandb",), "p", "a")
    assert [(note.name, note.value) for note in notes if note.name == "report_to"] == [("report_to", ["swanlab"])]
    assert from_trl({})[0].trackers.use == from_verl({})[0].trackers.use == ()
    assert from_verl({"trainer": {"logger": "tensorboard"}})[0].trackers.use == ("tensorboard",)
