"""Rewards of any shape through a run, `sieverl verify` and `sieverl eval`: errors, grades, thresholds, parts."""

from __future__ import annotations

import io
import json
import re
import shutil
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from rich.console import Console
from runs import NOT_EVALUATED, comparable, recipe

from sieverl import cli
from sieverl.display import plot
from sieverl.display.console import Progress
from sieverl.engines.fake import FakeEngine
from sieverl.engines.protocol import Request
from sieverl.errors import Alarm, UsageError
from sieverl.recipe import to_toml
from sieverl.run_dir.rollouts import rollout_path
from sieverl.training.loop import train
from sieverl.training.setup import prepare
from sieverl.training.state import Run
from sieverl.verify import Pool, build

Capture = pytest.CaptureFixture[str]
BAD = """
    def always(response, row):
        return row["targt_len"]
    def mostly(response, row):
        if "1" not in response: raise KeyError("no one")
        return 1.0
    def inside(response, row):
        import importlib
        return importlib.import_module("no_such")
    def trl(completions, **columns):
        return [1 / 0 for completion in completions]
"""


@pytest.fixture
def bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rbad.py").write_text(textwrap.dedent(BAD))
    return tmp_path


def command(directory: Path, *options: str, **overrides: Any) -> int:
    """`sieverl train` on the recipe of runs.py, in this process: its exit code."""
    (directory / "r.toml").write_text(to_toml(recipe(directory / "run", **overrides)))
    return cli.main(["train", "r.toml", "--run-dir", str(directory / "run"), *options])


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("always", "KeyError: 'targt_len' (rbad.py:3)"),
        ("mostly", "KeyError: 'no one' (rbad.py:5)"),
        ("inside", "ModuleNotFoundError: No module named 'no_such' (rbad.py:9)"),
        ("trl", "ZeroDivisionError: division by zero (rbad.py:11)"),
    ],
)  # fmt: skip
def test_S4_an_exception_is_shown_with_file_and_line(bad: Path, name: str, reason: str) -> None:
    with Pool({"name": f"rbad.py:{name}"}) as pool:
        pool.verdicts([("", {"answer": "4"})] * 3)
        assert dict(pool.reasons) == {reason: 3}


def test_S4_reasons_of_every_kind_are_counted(bad: Path) -> None:
    (bad / "rbad.py").write_text("def act(response, row):\n    raise ValueError(response)\n")
    with Pool({"name": "rbad.py:act"}) as pool:
        pool.verdicts([(str(i), {}) for i in range(150)])
        assert (pool.errors, sum(pool.reasons.values())) == (150, 150)
        assert len(pool.reasons) <= 101


@pytest.mark.parametrize("source", [pytest.param("reasoning_gym:basic_arithmetic", marks=pytest.mark.slow), ""])
def test_S4_a_run_of_which_every_answer_is_an_error_stops_at_once(bad: Path, capsys: Capture, source: str) -> None:
    overrides = {
        "verify__name": "rbad.py:always",
        "data__check_gold": 0,
        "evaluate__source": source,
        "evaluate__every": int(bool(source)),
    }
    assert command(bad, **overrides) == 5
    *_, error = capsys.readouterr().err.splitlines()
    assert re.search(
        r"every answer of the verifier was an error: KeyError: 'targt_len' \(rbad\.py:3\), \d+ times", error
    )
    assert not rollout_path(bad / "run", 1).exists(), (
        "nothing of the step is kept, so that a repaired verifier is asked"
    )
    (bad / "rbad.py").write_text("def always(response, row):\n    return 1.0 * (len(response) % 2)\n")
    assert command(bad, **overrides) == 0, "the same command goes on when it is repaired"


def test_S4_the_console_shows_a_reason_once_and_counts(bad: Path, capsys: Capture) -> None:
    assert command(bad, verify__name="rbad.py:mostly", data__check_gold=0, steps=3, **NOT_EVALUATED) == 0
    out = " ".join(capsys.readouterr().err.split())
    assert out.count("KeyError: 'no one' (rbad.py:5)") == 1
    assert out.count("verifier: 0 timeouts") == 3
    assert "so far" in out


def test_S4_verify_writes_its_file_and_exits_with_5_when_all_rows_are_errors(bad: Path, capsys: Capture) -> None:
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


GRADED = """
    from sieverl import Verdict
    def odd(response, row):  # the first response of a group alone is ever graded, and only from some step on
        return row["reward"][response]
    def unsaid(response, row):
        return PART if "0.5" in response else 1.0 * ("right" in response)
    def low(response, row):
        return 0.8 if "right" in response else 0.35
    def brief(response, row):
        return None if "none" in response else 0.5
    def never(response, row):
        return None
    def declared(response, row):
        return 1.0 * ("right" in response)
    declared.graded = False
    def wrong(response, row):
        return 1.0
    wrong.graded = "yes"
    def trl(completions, **columns):
        return [0.8 for completion in completions]
    def own(response, row):
        return Verdict(0.8, True, "correct", {"a": 0.3, "b": None})
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(textwrap.dedent(GRADED).replace("PART", "0.5"))
    return tmp_path


def scripted(directory: Path, texts: list[list[str]], name: str, steps: int, **overrides: Any) -> tuple[Run, str]:
    """A run whose engine answers step i with texts[i], one text a sample; the console's lines come with it."""
    overrides = {"verify__name": f"mine.py:{name}", "data__check_gold": 0, "alarms__engine_mismatch": 0, **overrides}
    made = prepare(
        recipe(directory, steps=steps, algorithm="reinforce", **NOT_EVALUATED, **overrides),
        say=lambda text: None,
    )
    tokenizer, eos, state = made.policy.tokenizer, made.prompts.sampling.eos[0], made.state

    def respond(request: Request, sample: int) -> list[int]:
        said = texts[min(state.step, len(texts) - 1)]
        return [*tokenizer(said[sample % len(said)], add_special_tokens=False)["input_ids"], eos]

    made.environment = replace(made.environment, engine=FakeEngine(respond))
    said = io.StringIO()
    with made:
        train(
            made,
            Progress(made.recipe, 0, made.declared_graded is not False, Console(soft_wrap=True, file=said)),
        )
    return made, " ".join(said.getvalue().split())


PLAIN, HALF = ["right", "bad", "bad", "bad"], ["right", "0.5", "bad", "bad"]


def advantages(directory: Path, step: int) -> list[float]:
    rows = pq.read_table(rollout_path(directory, step)).to_pylist()
    return [row["advantage"] for row in rows if row["group"] == 0]


def test_S2_graded_from_the_first_batch_stays_graded(mine: Path) -> None:
    made, out = scripted(mine / "r", [HALF, PLAIN], "unsaid", 3)
    assert [advantages(mine / "r", step) for step in (1, 2, 3)] == [[1, 0.5, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]]
    assert made.state.graded is True
    assert out.count("rewards are taken as they are") == 1


def test_S2_a_first_partial_reward_in_a_later_step_stops_the_run_and_never_flips(mine: Path) -> None:
    with pytest.raises(Alarm, match=r"step 3: a response got the reward 0\.5.*verify\.graded = true"):
        scripted(mine / "r", [PLAIN, PLAIN, HALF], "unsaid", 4, checkpoint__every=1)
    assert [advantages(mine / "r", step) for step in (1, 2)] == [[1, -1, -1, -1]] * 2
    assert not rollout_path(mine / "r", 3).exists()
    with pytest.raises(UsageError, match="trained with rewards taken as right or wrong"):
        scripted(mine / "r", [PLAIN, PLAIN, HALF], "unsaid", 4, verify__graded=True)
    made, _ = scripted(mine / "r", [PLAIN, PLAIN, HALF], "unsaid", 4, verify__graded=False)
    assert advantages(mine / "r", 3) == [1, -1, -1, -1], "the same run goes on when it is told what it is"
    assert made.state.graded is False


def test_S2_a_declaration_decides(mine: Path) -> None:
    scripted(mine / "a", [PLAIN], "unsaid", 1, verify__graded=True)
    assert advantages(mine / "a", 1) == [1, 0, 0, 0]
    scripted(mine / "b", [HALF], "unsaid", 1, verify__graded=False)
    assert advantages(mine / "b", 1) == [1, -1, -1, -1]
    _, out = scripted(mine / "c", [PLAIN], "declared", 1)
    assert advantages(mine / "c", 1) == [1, -1, -1, -1]
    assert "rewards are taken" not in out
    with pytest.raises(UsageError, match="graded = 'yes'; it can be True or False"):
        scripted(mine / "d", [PLAIN], "wrong", 1)
    with Pool({"name": "mine.py:declared"}) as pool:
        assert pool.graded() is False
    with Pool({"name": "math"}) as pool:
        assert pool.graded() is False


def test_S3_from_which_reward_on_a_response_is_correct(mine: Path) -> None:
    made, out = scripted(mine / "a", [PLAIN], "low", 4)
    assert [row["reward/accuracy"] for row in made.metrics.rows()[1:]] == [0.0] * 4
    assert out.count("no reward reached verify.correct_from = 1 so far (highest 0.8)") == 1
    assert "reward" in out
    assert "0.462" in out, "the mean reward stands beside accuracy"
    made, out = scripted(mine / "b", [PLAIN], "low", 4, verify__correct_from=0.8)
    assert [row["reward/accuracy"] for row in made.metrics.rows()[1:]] == [0.25] * 4
    assert "no reward reached" not in out
    assert plot.curve(mine / "a").exists()


def test_S3_every_way_to_a_verdict_from_a_number_takes_correct_from(mine: Path, capsys: Capture) -> None:
    for name, correct in (("low", True), ("trl", True), ("own", True)):
        spec = {"name": f"mine.py:{name}", "correct_from": 0.8}
        assert build(spec)("right", {}).correct is correct
        assert build({"name": "sum", "parts": [{"name": f"mine.py:{name}"}], "correct_from": 0.8})("right", {}).correct
    assert build({"name": "mine.py:own"})("right", {}).correct, "a verdict of the user's own stays"
    assert not build({"name": "mine.py:low", "correct_from": 0.81})("right", {}).correct
    with pytest.raises(UsageError, match="correct_from"):
        build({"name": "mine.py:low", "correct_from": "much"})
    with pytest.raises(UsageError, match="correct_from is no option of math"):
        build({"name": "math", "correct_from": 0.5})
    (mine / "in.jsonl").write_text('{"gold": "4", "response": "right"}\n')
    arguments = ["verify", "--input", "in.jsonl", "--output", "out.jsonl", "--verifier", "mine.py:low"]
    for option, status in (("correct_from=0.8", "correct"), ("correct_from=1", "incorrect")):
        assert cli.main([*arguments, "--option", option]) == 0
        assert json.loads((mine / "out.jsonl").read_text())["status"] == status


PARTS = [
    {"name": "mine.py:never", "weight": 3.0},
    {"name": "mine.py:declared"},
    {"name": "mine.py:brief", "weight": 0.2},
    {"name": "mine.py:brief", "weight": 0.1},
]


def test_S3_none_does_not_apply_and_adds_nothing(mine: Path) -> None:
    check = build({"name": "sum", "parts": PARTS})
    assert check("right", {}).reward == pytest.approx(1.15)
    assert check("right", {}).correct, "the first part that applies says what is correct"
    assert check("right none", {}).parts == {"never": None, "declared": 1.0, "brief": None, "brief_2": None}
    alone = build({"name": "mine.py:never"})("x", {})
    assert (alone.reward, alone.status) == (0.0, "no_answer")
    nested = build({"name": "sum", "parts": [{"name": "sum", "parts": PARTS[2:]}, {"name": "mine.py:declared"}]})
    assert nested("right", {}).parts == {
        "sum": pytest.approx(0.15),
        "sum/brief": 0.5,
        "sum/brief_2": 0.5,
        "declared": 1.0,
    }
    assert nested("right none", {}).parts == {"sum": None, "declared": 1.0}
    assert build({"name": "mine.py:own"})("x", {}).parts == {"a": 0.3, "b": None}


@pytest.mark.parametrize("workers", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_S3_parts_are_logged_apart_and_read_back(mine: Path, workers: int) -> None:
    texts = [["right", "right none", "bad", "bad none"]]
    shape = {"verify__parts": PARTS, "verify__workers": workers, "checkpoint__every": 2}
    made, _ = scripted(mine / "a", texts, "never", 3, **shape, verify__name="sum")
    row = made.metrics.rows()[1]
    assert row["reward/declared/mean"] == 0.5
    assert row["reward/brief/mean"] == row["reward/brief_2/mean"] == 0.5
    assert "reward/never/mean" not in row
    columns = pq.read_table(rollout_path(mine / "a", 1)).to_pylist()
    assert [r["reward/brief"] for r in columns[:4]] == [0.5, None, 0.5, None]
    # Steps that are replayed take the verdicts of the log, whatever the verifier says by now.
    scripted(mine / "b", texts, "never", 3, **shape, verify__name="sum")
    log = mine / "b" / "metrics.jsonl"
    shutil.rmtree(mine / "b" / "checkpoints" / "step-3")
    (mine / "b" / "checkpoints" / "latest").unlink()
    (mine / "mine.py").write_text((mine / "mine.py").read_text().replace("else 0.5", "else 0.25"))
    scripted(mine / "b", texts, "never", 3, **shape, verify__name="sum")
    assert comparable(mine / "b") == comparable(mine / "a")
    assert "reward/brief/mean" in log.read_text()
