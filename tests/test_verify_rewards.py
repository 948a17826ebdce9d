"""Rewards of any shape through a run, `sieverl verify` and `sieverl eval`: errors, grades, thresholds, parts."""

from __future__ import annotations

import json
import re
import textwrap

import pytest
from test_loop import recipe

from sieverl import cli
from sieverl.metrics import rollout_path
from sieverl.recipe import to_toml
from sieverl.verify import Pool

BAD = """
    def always(response, row):
        return row["targt_len"]
    def mostly(response, row):
        if "1" not in response: raise KeyError("no one")
        return 1.0
    def inside(response, row):
        import json
        return json.loads("{")
    def trl(completions, **columns):
        return [1 / 0 for completion in completions]
"""


@pytest.fixture
def bad(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rbad.py").write_text(textwrap.dedent(BAD))
    return tmp_path


def command(directory, *options, **overrides):
    """`sieverl train` on the recipe of test_loop, in this process: its exit code."""
    (directory / "r.toml").write_text(to_toml(recipe(directory / "run", **overrides)))
    return cli.main(["train", "r.toml", "--run-dir", str(directory / "run"), *options])


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("always", "KeyError: 'targt_len' (rbad.py:3)"),
        ("mostly", "KeyError: 'no one' (rbad.py:5)"),
        ("inside", "JSONDecodeError: Expecting property name enclosed in double quotes: line 1 column 2 (char 1) (rbad.py:9)"),
        ("trl", "ZeroDivisionError: division by zero (rbad.py:11)"),
    ],
)  # fmt: skip
def test_S4_an_exception_is_shown_with_file_and_line(bad, name, reason):
    with Pool({"name": f"rbad.py:{name}"}) as pool:
        pool.verdicts([("", {"answer": "4"})] * 3)
        assert dict(pool.reasons) == {reason: 3}


def test_S4_reasons_of_every_kind_are_counted(bad):
    (bad / "rbad.py").write_text("def act(response, row):\n    raise ValueError(response)\n")
    with Pool({"name": "rbad.py:act"}) as pool:
        pool.verdicts([(str(i), {}) for i in range(150)])
        assert (pool.errors, sum(pool.reasons.values())) == (150, 150)
        assert len(pool.reasons) <= 101


@pytest.mark.parametrize("source", ["reasoning_gym:basic_arithmetic", ""])
def test_S4_a_run_of_which_every_answer_is_an_error_stops_at_once(bad, capsys, source):
    overrides = {"verify__name": "rbad.py:always", "data__check_gold": 0, "evaluate__source": source}
    assert command(bad, **overrides) == 5
    error = capsys.readouterr().err
    assert re.search(
        r"every answer of the verifier was an error: KeyError: 'targt_len' \(rbad\.py:3\), \d+ times", error
    )
    assert len(error.splitlines()) == 1
    assert not rollout_path(bad / "run", 1).exists(), (
        "nothing of the step is kept, so that a repaired verifier is asked"
    )
    (bad / "rbad.py").write_text("def always(response, row):\n    return 1.0 * (len(response) % 2)\n")
    assert command(bad, **overrides) == 0, "the same command goes on when it is repaired"


def test_S4_the_console_shows_a_reason_once_and_counts(bad, capsys):
    assert command(bad, verify__name="rbad.py:mostly", data__check_gold=0, evaluate__source="", steps=3) == 0
    out = capsys.readouterr().out
    assert out.count("KeyError: 'no one' (rbad.py:5)") == 1
    assert out.count("verifier: 0 timeouts") == 3
    assert "so far" in out


def test_S4_verify_writes_its_file_and_exits_with_5_when_all_rows_are_errors(bad, capsys):
    (bad / "in.jsonl").write_text('{"gold": "4", "response": "4"}\n' * 3)
    arguments = ["verify", "--input", "in.jsonl", "--output", "out.jsonl", "--verifier"]
    assert cli.main([*arguments, "rbad.py:always"]) == 5
    assert [json.loads(line)["status"] for line in (bad / "out.jsonl").read_text().splitlines()] == [
        "verifier_error"
    ] * 3
    assert len(capsys.readouterr().err.splitlines()) == 1
    (bad / "in.jsonl").write_text('{"gold": "4", "response": "4"}\n{"gold": "4", "response": "1"}\n')
    assert cli.main([*arguments, "rbad.py:mostly"]) == 0
    (bad / "in.jsonl").write_text('{"gold": "4", "response": "\\\\boxed{5^{5^{5^5}}}"}\n')
    assert cli.main([*arguments, "math"]) == 0, "an answer that is refused is no failure of the verifier"
