"""The report: numbers by hand, text of others is text, what is damaged is named and the rest is shown."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ROOT
from report_runs import HOSTILE, Page, evaluated, metrics, row, rows_of, whole_run, write_run

from sieverl import cli
from sieverl.commands import report as command
from sieverl.display.report.arms import Arm, arms_of, differing, points_of, with_gaps
from sieverl.display.report.build import build
from sieverl.display.report.content import Report, cut, spread
from sieverl.display.report.figures import phases, saved
from sieverl.display.report.page import html
from sieverl.display.report.responses import Counts, evaluations, pass_curve, solve_rates, steps_read
from sieverl.evaluation.statistics import over_seeds
from sieverl.run_dir.rollouts import MARK, rollout_path, write_rollouts
from sieverl.run_dir.saved import SavedRun

Capture = pytest.CaptureFixture[str]


def report_on(*folders: Path) -> Report:
    return build([SavedRun.read(folder) for folder in folders])


def names(report: Report) -> list[str]:
    return [figure.name for figure in report.figures]


# --- numbers ----------------------------------------------------------------------------------------


def test_the_interval_over_seeds_by_hand() -> None:
    """Of 0.5, 0.6, 0.7 the standard deviation is 0.1, and 4.3027 x 0.1 / sqrt(3) is 0.2484; of two, 12.706 x 0.05."""
    assert over_seeds([0.5, 0.6, 0.7]) == pytest.approx((0.6, 0.35159, 0.84841), abs=1e-5)
    assert over_seeds([0.5, 0.6]) == pytest.approx((0.55, -0.08531, 1.18531), abs=1e-5)
    assert over_seeds([0.25]) == (0.25, None, None)


def test_solve_rates_by_hand() -> None:
    correct = [[0] * 10, [1] * 2 + [0] * 8, [1] * 3 + [0] * 7, [1] * 9 + [0], [1] * 10, [1]]
    group_R = np.repeat(np.arange(6), [10, 10, 10, 10, 10, 1])
    rates = solve_rates(group_R, np.concatenate([np.array(one) for one in correct]))
    assert rates == pytest.approx([1 / 6, 1 / 6, 1 / 6, 0, 0, 1 / 6, 2 / 6]), "20% is in the bin up to 20%"
    assert sum(solve_rates(np.array([5, 9]), np.array([1, -1]))) == 1.0


def test_the_curve_of_pass_at_k_by_hand(tmp_path: Path) -> None:
    """Before, one of 12 responses is correct: pass@1 is 1/12, pass@2 a third of 1 - C(3, 2) / C(4, 2) = 1/2."""
    before, after = evaluations(SavedRun.read(whole_run(tmp_path / "a")))
    assert before == Counts(0, {0: 0, 1: 1, 2: 0}, {0: 4, 1: 4, 2: 4})
    assert {k: value[0] for k, value in pass_curve(before).items()} == pytest.approx({1: 1 / 12, 2: 1 / 6, 4: 1 / 3})
    assert {k: value[0] for k, value in pass_curve(after).items()} == pytest.approx({1: 0.5, 2: 11 / 18, 4: 2 / 3})
    assert all(low <= mean <= high for mean, low, high in pass_curve(after).values())


def test_tokens_saved_by_hand(tmp_path: Path) -> None:
    """Half of the groups are mixed, and all responses are as long."""
    run = SavedRun.read(whole_run(tmp_path / "a"))
    read = steps_read(run)
    assert [(one.step, one.sampled, one.computed) for one in read] == [(1, 160, 80), (2, 160, 80)]
    assert read[0].rates == [0.25, 0, 0.25, 0.25, 0, 0, 0.25]
    assert saved(read) == 0.5


def test_tokens_of_an_algorithm_that_computes_what_it_rejects(tmp_path: Path) -> None:
    rows = rows_of(1, [[0, 0], [0, 1]])
    logp = [[-1.0]] * 4
    run = write_run(tmp_path / "a", [metrics(1, 0.25)])
    write_rollouts(run, 1, [replace(one, learner_logp=logp[i]) for i, one in enumerate(rows)])
    assert saved(steps_read(SavedRun.read(run))) == 0.0
    write_rollouts(run, 1, [replace(one, learner_logp=[-1.0] if one.kept else None) for one in rows])
    assert saved(steps_read(SavedRun.read(run))) == 0.5


def test_a_curve_over_seeds_is_their_mean(tmp_path: Path) -> None:
    folders = [
        write_run(
            tmp_path / f"run-s{seed}", [metrics(1, 0.5 + seed / 10), metrics(2, 0.5)][: 2 - seed // 2], {"seed": seed}
        )
        for seed in (0, 1, 2)
    ]
    (arm,) = arms_of([SavedRun.read(folder) for folder in folders])
    assert arm.label == "run-s, 3 seeds"
    series = arm.series("reward/accuracy")
    assert list(series.x) == [1, 2]
    assert [y and round(y, 6) for y in series.y] == [0.6, 0.5]
    assert series.low[0] == pytest.approx(0.35159, abs=1e-5)
    assert series.notes == ["3 of 3 runs", "2 of 3 runs"], "the third ended before"


def test_runs_that_differ_in_more_than_the_seed_are_curves_of_their_own(tmp_path: Path) -> None:
    settings: list[dict[str, Any]] = [{"seed": 1}, {"seed": 2}, {"seed": 1, "lr": 0.5}]
    runs = [SavedRun.read(write_run(tmp_path / f"r{i}", [metrics(1, 0.5)], one)) for i, one in enumerate(settings)]
    assert [(arm.label, len(arm.runs)) for arm in arms_of(runs)] == [("r, 2 seeds", 2), ("r2", 1)]
    assert differing(runs) == [("seed", ["1", "2", "1"]), ("lr", ["", "", "0.5"])]
    for run in runs:
        (run.path / "recipe.toml").unlink()
    unknown = [SavedRun.read(run.path) for run in runs]
    assert len(arms_of(unknown)) == 3, "nothing says that they are the same"


def test_steps_that_are_missing_interrupt_a_curve(tmp_path: Path) -> None:
    assert with_gaps([1, 2, 5, 6]) == [1, 2, 3, 5, 6]
    run = SavedRun.read(
        write_run(tmp_path / "a", [metrics(1, 0.5), metrics(4, 0.5), metrics(5, 0.5, **{"policy/entropy": None})])
    )
    assert list(Arm("a", [run]).series("policy/entropy").y) == [0.2, None, 0.2, None]
    assert points_of(run, "policy/entropy") == {1: 0.2, 4: 0.2}
    assert phases(Arm("a", [run])) == {"rollout": 9.0, "update": 3.0, "evaluate": 0, "other": 1.5}


def test_spread_and_cut() -> None:
    assert spread(list(range(100)), 40)[0::39] == [0, 99]
    assert cut("x" * 10, 5) == "xxxxx [... 5 more characters]"


# --- the page ---------------------------------------------------------------------------------------


def test_a_whole_run(tmp_path: Path) -> None:
    report = report_on(whole_run(tmp_path / "mine"))
    assert report.problems == []
    assert {fact.name: fact.value for fact in report.facts} == {
        "algorithm": "grpo", "model": "the shipped model", "trained to": "step 2 of 2",
        "held-out accuracy, avg@4": "25% \u2192 50%", "responses kept": "50%", "tokens saved by selection": "50%",
        "time": "9 s",
    }  # fmt: skip
    wanted = "accuracy selection solve-rate entropy kl-old accuracy-kl length statuses pass-at-k time tokens"
    assert names(report) == wanted.split(), "rewards of 0 and 1 are the accuracy and have no chart of their own"
    assert all(figure.caption.startswith("Good: ") for figure in report.figures)
    evaluation, statuses = report.tables
    assert evaluation.rows == [["0", "25% (12.5% to 37.5%)", "0", "9"], ["2", "50% (37.5% to 62.5%)", "0.125", "9"]]
    assert statuses.rows == [["mine", "32", "0%", "0%", "2 (6.2%)", "0 (0%)"]]
    groups, improved, unsolved = report.examples
    assert [group.title for group in groups.groups] == ["Kept: group 1", "All wrong: group 0", "All correct: group 2"]
    assert dict(groups.groups[1].responses[0].facts)["learner"] == "not kept: all_wrong"
    assert [group.title for group in improved.groups] == [
        "1+1: 1 of 4 correct before, 4 of 4 after", "0+1: 0 of 4 correct before, 2 of 4 after"
    ]  # fmt: skip
    assert [one.right for one in improved.groups[0].responses] == [False, True]
    assert [group.title for group in unsolved.groups] == ["2+1: answers read: 7 (4)"]
    page = Page(html(report))
    assert not page.faults
    for text in ("response 1/3", "ab12", "grpo", "Accuracy against KL", "torch"):
        assert text in page.text
    policy = [value for tag, name, value in page.attributes if tag == "meta" and "default-src" in value]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]


def test_a_graded_reward_and_its_parts_have_charts(tmp_path: Path) -> None:
    rows = [metrics(1, 0.5, **{"reward/mean": 0.75, "reward/brief/mean": 0.25, "reward/math/mean": 0.5})]
    assert {"reward", "reward-parts"} <= set(names(report_on(write_run(tmp_path / "a", rows))))


def test_several_runs_are_laid_over_each_other(tmp_path: Path) -> None:
    folders = [whole_run(tmp_path / f"grpo-{seed}", seed=seed) for seed in (1, 2)]
    report = report_on(*folders, whole_run(tmp_path / "raft", algorithm="raft"))
    runs, means, differences, *_ = report.tables
    assert [cells[0] for cells in runs.rows] == ["grpo-1", "grpo-2", "raft"]
    assert means.rows == [["grpo, 2 seeds", "25% (25% to 25%)", "50% (50% to 50%)"]]
    assert differences.rows == [["algorithm", "grpo", "grpo", "raft"], ["seed", "1", "2", "1"]]
    assert not report.examples
    accuracy = next(figure.svg for figure in report.figures if figure.name == "accuracy")
    assert ">grpo, 2 seeds</text>" in accuracy
    assert "<title>step 2: 50% (37.5% to 62.5%), raft</title>" in accuracy
    assert "<title>step 2: 50% (50% to 50%), grpo, 2 seeds</title>" in accuracy
    assert {"selection-1", "selection-2", "selection-3", "tokens", "pass-at-k"} <= set(names(report))
    assert not Page(html(report)).faults


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_what_others_wrote_is_text(tmp_path: Path, text: str) -> None:
    step = rows_of(1, [[0, 0], [0, 1], [1, 1]], prompt=text, answer=text, response=text, extracted=text, reason=text)
    evals = [
        rows_of(s, c, "eval", prompt=text, response=text, extracted=text)
        for s, c in ((0, [[0, 0], [0, 0]]), (1, [[1, 1], [0, 0]]))
    ]
    named = {f"reward/{text}/mean": 0.5, f"eval/{text}/avg@4": 0.5, f"eval/heldout/{text}": 0.5}
    rows = [{"step": 0, **evaluated(0.5)}, metrics(1, 0.5, **named, **evaluated(0.75))]
    storable = text.encode(errors="replace").decode().replace("\x00", "")
    recipe = {"algorithm": storable, "model": storable, storable[:2000] + "key": storable}
    folder = write_run(tmp_path / re.sub("[/\x00]", " ", storable)[:100], rows, recipe, [step], evals)
    start = {"step": text, "model": text, "parameters": text, text: {text: text}}
    (folder / "environment.json").write_text(json.dumps({"starts": [start, start]}))
    for folders in ([folder], [folder, whole_run(tmp_path / "other")]):
        page = html(report_on(*folders))
        assert not Page(page).faults
        assert len(page.encode()) < 3e6
        assert not re.search("[\x00\x1b\u202e\u2066\u200b]", page)
        assert text != HOSTILE[4] or "{{ 7 * 7 }} {% raw %}" in Page(page).text, "a template of theirs is text"


def test_no_more_than_forty_steps_and_the_groups_shown_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = [rows_of(step, [[0, 0], [0, 1], [1, 1]]) for step in range(1, 101)]
    folder = write_run(tmp_path / "a", [metrics(step, 0.5) for step in range(1, 101)], {"steps": 100}, steps)
    calls: list[tuple[int, Any]] = []
    read = SavedRun.responses

    def counted(self: SavedRun, step: int, columns: Any = None, kind: Any = "step", where: Any = None) -> Any:
        calls.append((step, where))
        return read(self, step, columns, kind, where)

    monkeypatch.setattr(SavedRun, "responses", counted)
    report = report_on(folder)
    assert "solve-rate" in names(report)
    assert len({step for step, _ in calls}) == 40
    assert len(calls) == 43, "of the last step also the choice of groups, their rows, and what the learner computed"
    assert report.problems == [
        "it has no held-out evaluation, so nothing says what the model learned beyond its own prompts"
    ]


def test_long_texts_and_large_groups_are_cut_with_a_note(tmp_path: Path) -> None:
    rows = [row(1, 0, i, bool(i % 2), response="a" * 5000) for i in range(40)]
    (group,) = report_on(write_run(tmp_path / "a", [metrics(1, 0.5)], {"steps": 1}, [rows])).examples[0].groups
    assert len(group.responses) == 16
    assert group.note == "24 more responses are not shown."
    assert group.responses[0].text.endswith("[... 3,500 more characters]")


# --- damage -----------------------------------------------------------------------------------------


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def other_version(path: Path) -> None:
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({MARK: b"99"}), path)


def other_types(path: Path) -> None:
    table = pq.read_table(path).drop_columns(["group", "prompt_id"])
    for name in ("group", "prompt_id"):
        table = table.append_column(name, pa.array(["one"] * table.num_rows))
    pq.write_table(table, path)


def fewer_columns(path: Path) -> None:
    pq.write_table(pq.read_table(path).select(["step", "group", "correct", "prompt_id", "response"]), path)


def no_rows(path: Path) -> None:
    pq.write_table(pq.read_table(path).slice(0, 0), path)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (cut_off, "step-000002.parquet is left out"),
        (other_version, "is of version 99; this program reads up to 2"),
        (other_types, "step-000002.parquet is left out: its column"),
        (fewer_columns, None),
        (no_rows, None),
        (Path.unlink, "no responses are logged of 1 of 2 steps (2)"),
    ],
)
def test_damaged_responses_are_named_and_the_rest_is_shown(
    tmp_path: Path, harm: Callable[[Path], None], said: str | None
) -> None:
    folder = whole_run(tmp_path / "a")
    harm(rollout_path(folder, 2))
    harm(rollout_path(folder, 2, "eval"))
    report = report_on(folder)
    assert said is None or [problem for problem in report.problems if said in problem]
    assert {"accuracy", "solve-rate", "entropy", "pass-at-k"} <= set(names(report))
    assert not Page(html(report)).faults


def test_metrics_with_holes_and_a_run_that_is_still_going(tmp_path: Path) -> None:
    rows = [{"step": 0, **evaluated(0.5)}, metrics(1, 0.5), metrics(5, 0.5)]
    folder = write_run(tmp_path / "a", rows, {"steps": 9})
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('not a row\n{"step": 6, "reward/mean": 1' + "0" * 400 + '}\n{"step": 7, "rew')
    problems = report_on(folder).problems
    for said in (
        "step 6 of 9: still going, or cut off",
        "no rows for steps 2 to 4",
        "line 4 is damaged",
        "of 3 of 3 steps",
    ):
        assert [problem for problem in problems if said in problem], said


@pytest.mark.parametrize(
    "rows", [[], [{"step": 0, **evaluated(0.5)}], [metrics(1, 0.5)], [{"step": 1}], [{"step": 2**53}]]
)
def test_a_run_that_has_hardly_begun(tmp_path: Path, rows: Sequence[dict[str, Any]]) -> None:
    report = report_on(write_run(tmp_path / "a", rows))
    assert report.problems
    assert not Page(html(report)).faults


@pytest.mark.parametrize("name", ["recipe.toml", "environment.json", "metrics.jsonl", "rollouts"])
@pytest.mark.parametrize(
    "content", [None, b"", b"\xff\xfe", b"[" * 5000, b'{"starts": [1, {"a": [{}]}]}', b"a = 1979-05-27"]
)
def test_a_file_that_is_missing_or_is_none(tmp_path: Path, name: str, content: bytes | None) -> None:
    folder = whole_run(tmp_path / "a")
    if (folder / name).is_dir():
        shutil.rmtree(folder / name)
    else:
        (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    report = report_on(folder)
    assert report.problems or name in ("environment.json", "recipe.toml")
    assert len(report.figures) > 2 or name == "metrics.jsonl"
    assert not Page(html(report)).faults


# --- the command ------------------------------------------------------------------------------------


def sieverl(capsys: Capture, *arguments: object) -> tuple[int, str, str]:
    code = cli.main([str(argument) for argument in arguments])
    out = capsys.readouterr()
    return code, out.out, out.err


def test_the_commands_of_the_page_run(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("grpo-1", "grpo-2", "raft-1"):
        whole_run(Path("runs") / name)
    page = (ROOT / "docs" / "report.md").read_text()
    commands = re.findall(r"^sieverl (report .*)$", page, re.MULTILINE)
    assert len(commands) == 3
    for one in commands:
        assert sieverl(capsys, *one.split())[0] == 0
    assert (tmp_path / "runs" / "grpo-1" / "report.html").is_file()
    assert (tmp_path / "report.html").is_file()
    assert Path("figures/accuracy.svg").read_text().startswith("<svg xmlns=")


def test_a_run_that_is_not_there(tmp_path: Path, capsys: Capture) -> None:
    folder = whole_run(tmp_path / "grpo-1")
    code, out, err = sieverl(capsys, "report", folder, tmp_path / "grpo-l")
    assert (code, out) == (3, "")
    assert f"Did you mean {folder}?" in err
    assert len(err.splitlines()) == 1
    assert not (folder / "report.html").exists()
    code, _, err = sieverl(capsys, "report", tmp_path)
    assert code == 3
    assert f"there are {folder}" in err
    code, _, err = sieverl(capsys, "report", folder, "--output", tmp_path)
    assert code == 2
    assert "is a directory" in err


def test_the_same_run_twice_is_one_and_a_report_is_replaced(tmp_path: Path, capsys: Capture) -> None:
    folder = whole_run(tmp_path / "a")
    for _ in range(2):
        assert sieverl(capsys, "report", folder, f"{folder}/../a")[:2] == (0, f"report: {folder}/report.html\n")
    assert sorted(path.name for path in folder.iterdir() if "report" in path.name) == ["report.html"]


def test_a_report_that_fails_is_a_line_at_the_end_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = whole_run(tmp_path / "a")
    assert command.at_the_end(folder) == str(folder / "report.html")
    monkeypatch.setattr("sieverl.display.report.page.html", lambda report: 1 / 0)
    assert command.at_the_end(folder) == "not written: ZeroDivisionError: division by zero"
    assert command.at_the_end(tmp_path).startswith("not written: DataError: ")
