"""Charts: where points are by hand, gaps, thinning, and text that others wrote."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from report_runs import HOSTILE, Page

from sieverl.display.axes import padded, shown, ticks
from sieverl.display.charts import MOST, SPOTS, Series, bar_chart, heat_map, line_chart, sparkline, thinned
from sieverl.display.svg import standalone, style

NAN = float("nan")


def paths(svg: str, kind: str) -> list[str]:
    return re.findall(f'<path class="{kind}" d="([^"]*)"', svg)


def test_points_are_where_their_numbers_say() -> None:
    """The plot is 376 wide from 50 on and 190 high from 44 on; its y axis goes from 0 to 1, the x axis from 0 to 4."""
    svg = line_chart("t", [Series("", [0, 1, 4], [0.0, 0.5, 1.0])], "step", "y", (0.0, 1.0))
    assert paths(svg, "line") == ["M50.0 234.0L144.0 139.0L426.0 44.0"]


def test_an_interval_is_a_band_of_a_line_and_whiskers_of_dots() -> None:
    series = Series("", [0, 4], [0.5, 0.5], low=[0.0, 0.25], high=[1.0, 0.75])
    line = line_chart("t", [series], "step", "y", (0.0, 1.0))
    assert paths(line, "band") == ["M50.0 44.0L426.0 91.5L426.0 186.5L50.0 234.0Z"]
    assert paths(line, "whisker") == []
    dots = line_chart("t", [Series("", [0, 4], [0.5, 0.5], [0.0, None], [1.0, 1.0], "dots")], "step", "y", (0.0, 1.0))
    assert paths(dots, "whisker") == ["M50.0 234.0V44.0M47.0 234.0h6M47.0 44.0h6"]
    assert paths(dots, "line") == []
    assert dots.count('<circle class="dot"') == 2


@pytest.mark.parametrize("gap", [None, NAN, float("inf"), 1e300])
def test_a_gap_interrupts_the_line(gap: float | None) -> None:
    svg = line_chart("t", [Series("", [0, 1, 2, 3, 4], [0.0, 1.0, gap, 1.0, 0.0])], "step", "y", (0.0, 1.0))
    assert paths(svg, "line") == ["M50.0 234.0L144.0 44.0M332.0 44.0L426.0 234.0"]
    assert svg.count("<circle") == 4


@pytest.mark.parametrize("values", [[], [None], [NAN, NAN]])
def test_nothing_to_draw_is_said(values: list[float | None]) -> None:
    series = [Series("", range(len(values)), values)]
    for svg in (line_chart("t", series, "step", "y"), heat_map("t", [], ["a"], [], "step"), sparkline(values)):
        assert "nothing was measured" in svg
        assert not Page(svg).faults


def test_one_point_is_a_dot() -> None:
    svg = line_chart("t", [Series("", [3], [7.0])], "step", "y")
    assert svg.count('<circle class="dot"') == 1


def test_many_points_are_thinned_and_the_extremes_stay() -> None:
    y = [0.5 + (i % 2) * 0.01 for i in range(10_000)]
    y[777], y[9_001] = 9.0, -9.0
    one = thinned(Series("", range(10_000), y))
    assert len(one.x) <= MOST + 2
    assert (one.x[0], one.x[-1]) == (0, 9_999)
    assert {9.0, -9.0} <= set(one.y)
    assert list(one.x) == sorted(one.x)
    svg = line_chart("t", [Series("", range(10_000), y)], "step", "y")
    assert 0 < svg.count("<circle") <= SPOTS + 1
    assert len(svg) < 20_000


def test_a_point_says_its_numbers() -> None:
    series = Series("grpo", [10], [0.5], [0.25], [0.75], notes=["3 of 3 runs"])
    svg = line_chart("t", [series], "step", "y", percent=True)
    assert "<title>grpo, step 10: 50% (25% to 75%), 3 of 3 runs</title>" in svg


def test_bars_are_as_long_as_their_numbers() -> None:
    svg = bar_chart(
        "time", ["rollout", "update", "none"], [Series("a", [], [8.0, 2.0, None]), Series("b", [], [4.0])], "s"
    )
    widths = [float(width) for width in re.findall(r'<rect class="bar[^>]* width="([0-9.]+)"', svg)]
    assert widths == [240.0, 120.0, 60.0, 0.0, 0.0, 0.0], "8 seconds are 240 wide"
    assert "<title>a rollout: 8 s</title>" in svg


def test_a_heat_map_has_a_cell_for_each_share_and_none_for_zero() -> None:
    svg = heat_map("t", [1, 2], ["wrong", "right"], [[1.0, 0.0], [0.5, 0.5]], "step")
    assert re.findall(r'fill-opacity="([0-9.]+)"', svg) == ["1.00", "0.53", "0.53"]
    assert "<title>step 2, right: 50%</title>" in svg


def test_ticks_and_edges_by_hand() -> None:
    assert ticks(-1.0, 1.0) == [-1.0, -0.5, 0.0, 0.5, 1.0]
    assert ticks(0.0, 3e-7) == [0.0, 1e-7, 2e-7, 3e-7]
    assert ticks(0, 2, whole=True) == [0.0, 1.0, 2.0]
    assert padded([5.0, 5.0], (None, None)) == (4.5, 5.5)
    assert padded([-3.0], (0.0, None))[0] == 0.0
    for values in ([0.0], [1e199, -1e199], [1e-300, 2e-300], [1e15, 1e15 + 0.25]):
        low, high = padded(values, (None, None))
        assert low < high
        assert 1 <= len(ticks(low, high)) <= 9
    assert shown(float("nan")) == "nan"


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_text_of_others_is_text(text: str) -> None:
    series = [Series(text, [0, 1], [0.0, 1.0], notes=[text, text]), Series(text, [0], [1.0], style="dots")]
    charts = [
        line_chart(text, series, text, text),
        bar_chart(text, [text], series, text[:20]),
        heat_map(text, [1], [text], [[1.0]], text),
        sparkline([1.0, 2.0], text),
    ]
    for svg in charts:
        assert not Page(svg).faults
        assert len(svg) < 20_000, "long texts are cut"
        svg.encode()
        ElementTree.fromstring(standalone(svg))


def test_a_page_with_charts_has_colours_for_both_themes_and_no_style_of_its_own() -> None:
    """No element has a style, so that a page may forbid them."""
    many = [Series(f"{i}", [0, 1], [i, i]) for i in range(12)]
    svg = line_chart("t", many, "step", "y") + bar_chart("t", ["a"], many) + heat_map("t", [1], ["a"], [[1.0]], "x")
    used = {name for names in re.findall(r'class="([^"]*)"', svg) for name in names.split()}
    rules = style()
    plain = {"line", "dash0", "dots", "path", "unit"}
    assert {name for name in used if f".{name}" not in rules} <= plain
    assert {f"tone{i}" for i in range(8)} <= used
    assert len(re.findall(r"--c\d: light-dark\(#\w{6}, #\w{6}\)", rules)) == 8
    assert not Page(svg).faults
    alone = standalone(line_chart("t", many, "step", "y"))
    assert "var(" not in alone
    assert "light-dark" not in alone


def test_charts_say_what_they_show_to_those_who_do_not_see() -> None:
    svg = line_chart("Accuracy", [Series("grpo", [1, 2, 3], [0.25, 0.75, 0.5])], "step", "share", percent=True)
    assert 'role="img"' in svg
    assert re.match(r"<svg [^>]*><title>Accuracy</title><desc>share by step. grpo: 25% at first, 50% at last, ", svg)
