"""Differences paired by seed, corrections, verdicts: against hand-worked numbers and SciPy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sieverl.study.compare import Judged, above, differences, estimate, evidence, holm, judge, starts
from sieverl.study.plan import Claim, Comparison, Quantity, Study, Until
from sieverl.study.results import Result
from sieverl.study.table import arm_table, comparison_cells, csv_text

STUDY = Study(seeds=[1, 2, 3], baseline="b", arms={"a": {}, "b": {}, "c": {}})


def result(arm: str, seed: int, value: float | None, step: int = 100) -> Result:
    return Result(
        arm, seed, "", step, "eval/x/avg@4", {} if value is None else {"eval/x/avg@4": ([0, step], [0.1, value])}
    )


def results(**values: Sequence[float | None]) -> list[Result]:
    return [result(arm, seed, value) for arm, row in values.items() for seed, value in enumerate(row, 1)]


def claim(expect: str, margin: float = 0.0, arm: str = "a", horizon: int = 0) -> Claim:
    return Claim(text="t", horizon=horizon, compare=[Comparison(arm=arm, expect=expect, margin=margin)])


def verdict(claimed: Claim, runs: Sequence[Result]) -> str:
    return judge(claimed, STUDY, runs).verdict


def test_differences_are_of_the_seeds_that_both_have() -> None:
    runs = results(a=[0.5, 0.6, None], b=[0.4, 0.4, 0.4])
    assert differences(runs, Quantity(), "a", "b") == pytest.approx([0.1, 0.2])


numbers = st.lists(st.floats(-1, 1, width=32).map(lambda x: round(x, 3)), min_size=3, max_size=9)


@given(numbers)
def test_p_values_are_those_of_a_paired_t_test(values: list[float]) -> None:
    if np.ptp(values) < 1e-3:
        return
    for expect, side in (("higher", "greater"), ("lower", "less")):
        p = evidence(values, Comparison(arm="a", expect=expect))[0]
        assert p == pytest.approx(min(1.0, 2 * stats.ttest_1samp(values, 0, alternative=side).pvalue), abs=1e-9)
    both = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    found = estimate(values)
    assert (found.low, found.high) == (pytest.approx(both.low), pytest.approx(both.high))
    higher = evidence(values, Comparison(arm="a", expect="higher"))[0]
    assert (higher < 0.05) == (both.low > 0), "the test and the interval say the same"


@given(numbers, st.floats(0.01, 1))
def test_same_is_two_one_sided_tests(values: list[float], margin: float) -> None:
    if np.ptp(values) < 1e-3:
        return
    low = stats.ttest_1samp(values, -margin, alternative="greater").pvalue
    high = stats.ttest_1samp(values, margin, alternative="less").pvalue
    p, contrary = evidence(values, Comparison(arm="a", expect="same", margin=margin))
    assert p == pytest.approx(max(low, high), abs=1e-9)
    assert contrary == pytest.approx(min(1.0, 2 * min(1 - low, 1 - high)), abs=1e-9)
    assert not (p < 0.05 and contrary < 0.05)


@pytest.mark.parametrize(
    ("values", "no_lower", "no_higher"),
    [
        ([0.5, 0.52, 0.49], "holds", "contrary"),  # far above: no lower in any case
        ([-0.5, -0.52, -0.49], "contrary", "holds"),
        ([0.01, -0.02, 0.0], "holds", "holds"),
        ([0.2, -0.25, 0.1], "open", "open"),
    ],
)
def test_no_lower_is_one_side_of_same(values: list[float], no_lower: str, no_higher: str) -> None:
    for expect, said in (("no lower", no_lower), ("no higher", no_higher)):
        p, contrary = evidence(values, Comparison.model_validate({"arm": "a", "expect": expect, "margin": 0.1}))
        assert said == ("holds" if p < 0.05 else "contrary" if contrary < 0.05 else "open")
    same = evidence(values, Comparison(arm="a", expect="same", margin=0.1))[0]
    assert (same < 0.05) == (no_lower == no_higher == "holds")


@pytest.mark.parametrize(
    ("shift", "expect", "ps"),
    [
        (0.0, "same", (0.0, 1.0)),  # equal runs
        (0.0, "higher", (1.0, 0.0)),
        (0.3, "same", (1.0, 1.0)),  # two seeds of 64 prompts differ by the same in one of 30 studies: by chance
        (0.3, "higher", (1.0, 1.0)),
    ],
)
def test_seeds_that_all_differ_by_the_same(shift: float, expect: str, ps: tuple[float, float]) -> None:
    assert evidence([shift] * 4, Comparison(arm="a", expect=expect, margin=0.1)) == ps


def test_above_of_one_tail() -> None:
    assert above([0.1, 0.2, 0.3], 0.2) == pytest.approx(0.5)
    assert above([0.1, 0.2, 0.3], 0.9) > 0.99


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_rejects_what_its_definition_rejects(p_values: list[float]) -> None:
    order = np.argsort(p_values, kind="stable")
    rejected, m = set(), len(p_values)
    for rank, place in enumerate(order):
        if p_values[place] * (m - rank) >= 0.05:
            break
        rejected.add(int(place))
    assert {place for place, p in enumerate(holm(p_values)) if p < 0.05} == rejected
    assert all(one >= p for one, p in zip(holm(p_values), p_values, strict=True))


def test_verdicts() -> None:
    runs = results(a=[0.50, 0.52, 0.51], b=[0.40, 0.41, 0.42])
    assert verdict(claim("higher"), runs) == "holds"
    assert verdict(claim("lower"), runs) == "does not hold"
    assert verdict(claim("higher", margin=0.2), runs) == "does not hold"
    assert verdict(claim("same", margin=0.2), runs) == "holds"
    assert verdict(claim("same", margin=0.02), runs) == "does not hold"
    assert verdict(claim("same", margin=0.1), runs) == "undecided"
    assert verdict(claim("higher"), results(a=[0.5, 0.3, 0.41], b=[0.4, 0.41, 0.42])) == "undecided"


def test_a_claim_holds_if_all_comparisons_do_and_is_corrected_for_their_number() -> None:
    values = [0.0, 0.04, 0.05, 0.03, 0.02, 0.001, 0.02, -0.01]
    p = stats.ttest_1samp(values, 0).pvalue
    assert 0.01 < p < 0.05
    study = STUDY.model_copy(update={"seeds": list(range(1, 9))})
    runs = results(a=values, b=[0.0] * 8, c=[-value for value in values])
    one = Comparison(arm="a", expect="higher")
    assert judge(Claim(text="t", compare=[one]), study, runs).verdict == "holds"
    alone = judge(Claim(text="t", compare=[one, one, one, one, one]), study, runs)
    assert alone.verdict == "undecided"
    assert [each.p for each in alone.compared] == pytest.approx([5 * p] * 5)
    wrong = Comparison(arm="c", expect="higher")
    assert judge(Claim(text="t", compare=[wrong]), study, runs).verdict == "does not hold"


def test_what_leaves_a_claim_undecided_is_said() -> None:
    runs = results(a=[0.50, 0.52, 0.51], b=[0.40, 0.41, 0.42], c=[0.5])
    early = judge(claim("higher", horizon=300), STUDY, runs)
    assert (early.verdict, early.why) == ("undecided", "it is about 300 steps, and the runs have 100")
    few = judge(claim("higher", arm="c"), STUDY.model_copy(update={"seeds": [1]}), runs)
    assert few.verdict == "undecided"
    assert few.why == "fewer than two seeds have held-out accuracy of c and of b"
    assert few.compared[0].p is None


def test_a_claim_is_not_decided_before_all_of_its_seeds_are_run() -> None:
    """Who looks after each seed and stops at the first success errs more often than one time in twenty."""
    runs = results(a=[0.50, 0.52, 0.51], b=[0.40, 0.41, 0.42])
    study = STUDY.model_copy(update={"seeds": [1, 2, 3, 4]})
    early = judge(claim("higher"), study, runs)
    assert (early.verdict, early.why) == ("undecided", "3 of 4 seeds of a and b so far")
    assert (early.compared[0].verdict, early.compared[0].p) == ("undecided", None)
    assert "| a | 3 | 0.510 ± 0.025 | +0.100 ± 0.025 |" in arm_table(study, runs), "what there is, is shown"
    assert arm_table(study, runs)[-1].startswith("6 of 12 runs so far; ")
    assert judge(claim("higher"), study, [*runs, result("a", 4, 0.51), result("b", 4, 0.40)]).verdict == "holds"


def test_a_quantity_beyond_the_last_step_of_a_run_is_missing() -> None:
    stopped = result("a", 1, 0.5, step=40)
    assert stopped.value(Quantity(steps=(30, 40))) == 0.5
    assert stopped.value(Quantity(steps=(30, 60))) is None, "a run that stopped early has no end"
    whole = Result("a", 1, "", 4, "", {"m": ([1, 2, 4], [1.0, 2.0, 3.0])})
    assert whole.value(Quantity(metric="m", steps="all", reduce="sum")) == 6
    assert whole.value(Quantity(metric="m", steps=(1, 2))) == 1.5
    assert whole.value(Quantity(metric="m")) == 3
    assert whole.start(Quantity(metric="m")) is None


def test_a_quantity_until_something_is_reached() -> None:
    run = Result(
        "a",
        1,
        "",
        6,
        "eval/x/avg@4",
        {"t": ([1, 2, 3, 4, 5, 6], [10.0] * 6), "eval/x/avg@4": ([0, 2, 4, 6], [0.1, 0.5, 0.7, 0.9])},
    )
    tokens = Quantity(metric="t", steps="all", reduce="sum", until=Until(reaches=0.6))
    assert run.value(tokens) == pytest.approx(30), "half way between the evaluations at steps 2 and 4"
    assert run.value(tokens.model_copy(update={"until": Until(reaches=0.65)})) == pytest.approx(35)
    mean = tokens.model_copy(update={"reduce": "mean", "metric": "m", "until": Until(reaches=0.65)})
    run.metrics["m"] = ([1, 2, 3, 4], [1.0, 1.0, 1.0, 8.0])
    assert run.value(mean) == pytest.approx((3 + 0.5 * 8) / 3.5)
    assert run.value(tokens.model_copy(update={"until": Until(reaches=0.95)})) is None
    assert run.value(tokens.model_copy(update={"until": Until(metric="t", reaches=10)})) == 10
    assert tokens.title == "sum of t until held-out accuracy reaches 0.6"
    with pytest.raises(ValueError, match="until goes with steps = 'all'"):
        Quantity(metric="t", until=Until(reaches=0.6))


def test_a_ratio_is_tested_as_a_factor() -> None:
    runs = [
        Result(arm, seed, "", 1, "", {"t": ([1], [value])})
        for arm, row in {"a": [50.0, 52.0, 49.0], "b": [100.0, 101.0, 99.0]}.items()
        for seed, value in enumerate(row, 1)
    ]

    def of(expect: str, margin: float) -> Judged:
        one = Comparison(arm="a", metric="t", log=True, expect=expect, margin=margin)
        return judge(Claim(text="t", compare=[one]), STUDY, runs)

    found = of("lower", 1.5)
    assert found.verdict == "holds"
    assert comparison_cells(found.compared[0], "b")[1:3] == ["lower by a factor of 1.5", "x 0.50 (0.48 to 0.53)"]
    assert of("lower", 3.0).verdict == "does not hold"
    assert of("same", 3.0).verdict == "holds"
    for margin in (0.5, 1.0):
        with pytest.raises(ValueError, match=r"is a factor above 1, such as 1\.5, not"):
            of("lower", margin)


def test_a_mean_over_some_values_reaches_later_than_a_lucky_one() -> None:
    run = Result("a", 1, "", 4, "x", {"x": ([0, 1, 2, 3, 4], [0.1, 0.6, 0.2, 0.5, 0.7])})
    assert run.reached(Until(reaches=0.6)) == 1
    assert run.reached(Until(reaches=0.6, over=2)) == 4
    assert run.reached(Until(reaches=0.475, over=2)) == pytest.approx(3.5)
    assert run.reached(Until(reaches=0.35, over=2)) == 1, "with the first mean that there is"
    assert run.reached(Until(reaches=0.6, over=6)) is None, "more values than there are"
    seconds = Quantity(metric="x", steps="all", reduce="sum", until=Until(reaches=0.1))
    assert run.value(seconds) is None, "what is reached before training says nothing"


def paid(arm: str, seed: int, tokens: float, score: float) -> Result:
    metrics = {"t": ([1, 2], [tokens, tokens]), "eval/x/avg@4": ([0, 2], [0.1, score])}
    return Result(arm, seed, "", 2, "eval/x/avg@4", metrics)


def test_runs_that_never_get_there_leave_a_claim_open_though_the_others_agree() -> None:
    """The baseline always gets there; the arm with two of five seeds, and quickly."""
    runs = [paid("b", seed, 100.0 + seed, 0.9) for seed in range(5)]
    runs += [paid("a", seed, 50.0 + seed, 0.9 if seed < 2 else 0.2) for seed in range(5)]
    cost = {"metric": "t", "steps": "all", "reduce": "sum", "until": {"reaches": 0.8}, "log": True, "label": "tokens"}
    one = Comparison.model_validate({**cost, "arm": "a", "expect": "lower"})
    found = judge(Claim(text="t", compare=[one]), STUDY, runs)
    assert (found.verdict, found.why) == ("undecided", "with 3 of 5 seeds a or b has no tokens")
    assert found.compared[0].p is None
    assert comparison_cells(found.compared[0], "b")[2].endswith("), 2 of 5 seeds")
    study = Study.model_validate({"seeds": [0], "baseline": "b", "arms": {"a": {}, "b": {}}, "columns": [cost]})
    row = arm_table(study, runs)[2]
    assert row.startswith("| a | 5 | ")
    assert row.count("2 of 5 seeds") == 2
    late = [run for run in runs if run.arm == "b" or run.value(one) is None]
    assert "| a | 3 | none of 3 seeds | none of 3 seeds |" in arm_table(study, late)


def test_a_run_that_was_stopped_has_no_last_step_and_no_sum() -> None:
    """Else it would be paired with whole runs, and look cheaper."""
    steps, last, total = [1, 2, 3], Quantity(metric="t"), Quantity(metric="t", steps="all", reduce="sum")
    stopped = Result("a", 1, "", 3, "t", {"t": (steps, [1.0, 2.0, 3.0])}, stopped="alarm")
    assert (stopped.value(last), stopped.value(total)) == (None, None)
    assert stopped.value(Quantity(metric="t", steps=(1, 2))) == 1.5
    assert stopped.value(Quantity(metric="t", steps="all", until=Until(reaches=2))) == 1.5


def test_a_horizon_is_that_of_the_arms_compared() -> None:
    runs = [*results(a=[0.5, 0.52, 0.51], b=[0.40, 0.41, 0.42]), result("c", 1, 0.5, step=300)]
    assert judge(claim("higher", horizon=300), STUDY, runs).why == "it is about 300 steps, and the runs have 100"


def test_the_start_is_shown_where_all_arms_share_it() -> None:
    def begins(arm: str, seed: int, value: float) -> Result:
        return Result(arm, seed, "", 1, "x", {"x": ([0, 1], [value, 0.5])})

    same = [begins(arm, seed, 0.1 * seed) for arm in "ab" for seed in (1, 2, 3)]
    assert starts(same, Quantity()).mean == pytest.approx(0.2)
    assert starts([*same, begins("c", 3, 0.9)], Quantity()).seeds == 0, "another evaluation"


def test_the_last_of_some_steps() -> None:
    metrics = {"e": ([1, 2, 3, 4], [8.0, 4.0, 2.0, 1.0]), "r": ([1, 2, 3, 4], [0.1, 0.3, 0.5, 0.9])}
    run = Result("a", 1, "", 4, "x", metrics)
    entropy = Quantity(metric="e", steps="all", over=2)
    assert run.value(entropy) == 1.5
    assert run.value(entropy.model_copy(update={"steps": (1, 3)})) == 3.0
    assert run.value(entropy.model_copy(update={"over": 9, "reduce": "sum"})) == 15.0, "no more than there are"
    # 0.3 and 0.5 are 0.4 at step 3; 0.55 is half way to the 0.7 of step 4: 2.0, and 1.0 by half
    reached = {metric: Until(metric="r", reaches=metric, over=2) for metric in (0.4, 0.55)}
    assert run.value(entropy.model_copy(update={"until": reached[0.4]})) == 3.0
    assert run.value(entropy.model_copy(update={"until": reached[0.55]})) == pytest.approx((2.0 + 0.5) / 1.5)
    assert entropy.title == "e, the last 2 steps"
    assert entropy.model_copy(update={"steps": (1, 3)}).title == "e, the last 2 steps of 1 to 3"
    assert entropy.model_copy(update={"until": reached[0.4]}).title == "e, the last 2 steps until r reaches 0.4"
    with pytest.raises(ValueError, match="over goes with steps"):
        Quantity(metric="e", over=2)


def test_an_interval_or_the_correction_leaves_a_claim_open() -> None:
    seeds = range(5)
    gaps = {"clear": [0.1, 0.11, 0.09, 0.1, 0.1], "some": [0.01, 0.05, 0.06, 0.01, 0.04], "none": [0.1, -0.1, 0, 0, 0]}
    study = Study(seeds=list(seeds), baseline="b", arms={name: {} for name in (*gaps, "b")})
    runs = [result(name, n, 0.5 + gap[n]) for name, gap in gaps.items() for n in seeds]
    runs += [result("b", n, 0.5) for n in seeds]

    def why(*arms: str) -> str:
        compare = [Comparison(arm=arm, expect="higher") for arm in arms]
        return judge(Claim(text="t", compare=compare), study, runs).why

    assert why("clear", "some") == "", "it holds"
    assert why("some", "some", "clear").startswith("the correction for several comparisons")
    assert why("some", "none").startswith("an interval")


def test_a_change_is_less_the_value_before_training() -> None:
    start, end = [0.1, 0.2, 0.4], [0.5, 0.5, 0.6]
    runs = [Result("a", n, "", 2, "x", {"x": ([0, 1, 2], [start[n], 0.0, end[n]])}) for n in range(3)]
    change, ratio = Quantity(change=True), Quantity(change=True, log=True)
    assert [run.value(change) for run in runs] == pytest.approx([0.4, 0.3, 0.2])
    assert runs[0].value(Quantity(change=True, steps=(1, 2))) == pytest.approx(0.25 - 0.1)
    assert ratio.plain(runs[0].value(ratio) or 0.0) == pytest.approx(5.0), "five times as much"
    assert runs[0].value(Quantity(change=True, log=True, steps=(1, 1))) is None, "no logarithm of 0"
    assert Result("a", 1, "", 2, "x", {"x": ([1, 2], [0.1, 0.5])}).value(change) is None, "not measured before"
    study = Study(seeds=[0, 1, 2], arms={"a": {}}, columns=[change])
    assert arm_table(study, runs)[2] == "| a | 3 | +0.30 ± 0.25 |", "and no row before training"
    for beside in ({"reduce": "sum"}, {"steps": "all", "until": {"reaches": 0.5}}):
        with pytest.raises(ValueError, match="change is of a value or a mean"):
            Quantity.model_validate({"change": True, **beside})


def test_a_column_by_ratio_is_no_logarithm_in_a_file() -> None:
    runs = [paid("a", 1, 50.0, 0.9), paid("a", 2, 200.0, 0.9), *(paid("b", seed, 100.0, 0.9) for seed in (1, 2))]
    column = {"metric": "t", "log": True}
    study = Study.model_validate({"seeds": [1], "baseline": "b", "arms": {"b": {}, "a": {}}, "columns": [column]})
    row = csv_text(study, runs).splitlines()[-1].split(",")
    assert (row[0], row[3], row[7]) == ("a", "100", "1"), "a geometric mean and a factor"


@given(numbers, st.floats(0.01, 1))
def test_same_is_no_lower_and_no_higher(values: list[float], margin: float) -> None:
    def p(expect: str) -> float:
        return evidence(values, Comparison.model_validate({"arm": "a", "expect": expect, "margin": margin}))[0]

    assert p("same") == pytest.approx(max(p("no lower"), p("no higher")), abs=1e-9)
