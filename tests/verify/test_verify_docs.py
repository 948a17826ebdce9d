"""docs/verifiers.md is correct: its examples run, its table of accepted answers holds, its options exist."""

from __future__ import annotations

import doctest
import re
import tomllib

import pytest
from conftest import ROOT

from sieverl.verify import build, make_verifier, options
from sieverl.verify.rules import RULES

PAGE = ROOT / "docs" / "verifiers.md"
TEXT = PAGE.read_text(encoding="utf-8")
CASES = re.findall(r"^\| `(.+?)` \| (whole: )?`(.+?)` \| (yes|no) \| (yes|no) \| (yes|no) \|$", TEXT, re.MULTILINE)


def blocks(kind):
    return re.findall(rf"^```{kind}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def test_examples_run():
    result = doctest.testfile(str(PAGE), module_relative=False)
    assert result.attempted == 7
    assert result.failed == 0


def test_the_table_was_found():
    assert len(CASES) == 35


@pytest.mark.parametrize(("gold", "whole", "answer", "strict", "lenient", "math_verify"), CASES)
def test_the_table_holds(gold, whole, answer, strict, lenient, math_verify):
    response = answer if whole else rf"\boxed{{{answer}}}"
    said = {"strict": strict, "lenient": lenient, "math_verify": math_verify}
    got = {rules: build({"name": "math", "rules": rules})(response, {"answer": gold}).correct for rules in said}
    assert {rules: "yes" if correct else "no" for rules, correct in got.items()} == said


def test_the_defaults_are_those_of_the_table():
    words = {"yes": True, "no": False, "6": 6, "0": 0}
    found = re.findall(r"^\| `(\w+)` \| (\S+) \| (\S+) \| ", TEXT, re.MULTILINE)
    table = {name: [words.get(value, value.strip("`")) for value in values] for name, *values in found}
    shown = {name: values for name, values in table.items() if name in options("math")}
    assert len(shown) == 11
    for name, values in shown.items():
        assert [getattr(RULES["strict"], name), getattr(RULES["lenient"], name)] == values


def test_tables_of_the_recipe_and_the_functions_work(tmp_path, monkeypatch):
    for text in blocks("toml"):
        table = tomllib.loads(text)["verify"]
        pool = ("workers", "timeout_s", "memory_mb", "network", "environment")
        make_verifier({key: value for key, value in table.items() if key not in pool})
    (code,) = blocks("python")
    (tmp_path / "reward.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    assert build({"name": "reward.py:length_bonus"})("12345", {"limit": 5}).reward == 0
    assert build({"name": "reward.py:as_in_trl"})("so 4", {"answer": "4"}).reward == 1
