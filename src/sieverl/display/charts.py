"""Charts as SVG, from plain numbers and without any script: what the report and the viewer show.

A page that holds them needs the rules of `svg.style()`, which colour them for light and dark; `svg.standalone` makes a
file of one. Numbers that are None, NaN or infinite are gaps. Every text is escaped, whoever wrote it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from markupsafe import Markup

from sieverl.display.axes import Limits, chosen, padded, real, shown, ticks
from sieverl.display.svg import WIDTH, clean, cut, path, picture, stretches, words

PLOT, LEFT, RIGHT, TOP, BOTTOM, ROW = 190, 50, 14, 44, 40, 17  # of the paper, which is `WIDTH` wide
MOST, SPOTS = 300, 60  # points of a line, and how many of them say their numbers when the pointer is over them
TONES, DASHES = 8, 4
EMPTY = "nothing was measured"


@dataclass(frozen=True)
class Series:
    """A curve. `low` and `high` are an interval, drawn as a band, or as whiskers of `dots`.

    `style`: a line; a faint one behind others; dots; or a path, which is dots in their order with a line. `tone` is the
    number of its colour, by default its place among the series. `notes` say more of each point.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float | None]
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()
    style: Literal["line", "faint", "dots", "path"] = "line"
    tone: int | None = None
    notes: Sequence[str] = ()


class Frame(NamedTuple):
    """The numbers at the edges of the plot."""

    left: float
    right: float
    low: float
    high: float

    def across(self, x: float) -> float:
        """Where a number of the x axis is on the paper."""
        return LEFT + (x - self.left) / (self.right - self.left) * (WIDTH - LEFT - RIGHT)

    def up(self, y: float) -> float:
        """Where a number of the y axis is on the paper; one outside of the plot is at its edge."""
        share = (min(max(y, self.low), self.high) - self.low) / (self.high - self.low)
        return TOP + PLOT - share * PLOT


# --- charts -----------------------------------------------------------------------------------------


def line_chart(
    title: str,
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    limits: Limits = (None, None),
    percent: bool = False,
    whole: bool = True,
) -> Markup:
    """Curves over numbers; more than `MOST` points are thinned, and hovering over one says what it is.

    `limits` are of the y axis, None where the data say it; `percent` shows shares; `whole` x are shown as integers.

    >>> line_chart("accuracy", [Series("a", [0, 1], [0.25, 0.5])], "step", "share", percent=True)[:75]
    Markup('<svg class="chart" role="img" viewBox="0 0 440 278"><title>accuracy</title>')
    """
    curves = [thinned(one) for one in series]
    xs = [x for one in curves for x, y in zip(one.x, one.y, strict=True) if y is not None]
    ys = [y for one in curves for part in (one.y, one.low, one.high) for y in part if y is not None]
    legend, rows = _legend(series)
    height = TOP + PLOT + BOTTOM + rows * ROW + 4
    if not xs:
        return picture(title, f"{title}: {EMPTY}", height, [words(WIDTH / 2, TOP + PLOT / 2, EMPTY, "middle")])
    frame = Frame(*padded(xs, (min(xs), max(xs))), *padded(ys, limits))
    body = [*_axes(frame, x_label, y_label, percent, whole)]
    for place, one in enumerate(curves):
        body += _curve(one, place, frame, percent, x_label)
    about = [f"{one.label or title}: {_summary(one, percent)}" for one in curves]
    return picture(title, f"{y_label} by {x_label}. " + ". ".join(about), height, [*body, *legend])


def bar_chart(title: str, names: Sequence[str], series: Sequence[Series], unit: str = "") -> Markup:
    """Horizontal bars: `y` of each series has one number for each of `names`; with the unit `%` they are shares.

    >>> "update: 2 s" in bar_chart("time", ["rollout", "update"], [Series("", [], [8, 2])], "s")
    True
    """
    values = [[real(y) for y in one.y[: len(names)]] for one in series]
    largest = max((abs(y) for row in values for y in row if y is not None), default=0.0) or 1.0
    legend, rows = _legend(
        [replace(one, style="dots") for one in series], TOP - 10 + (len(names) * (len(series) + 0.6)) * 14 + 8
    )
    start, room, body, said, y = 130, WIDTH - 130 - 70, [], [], TOP - 10.0
    for number, name in enumerate(names):
        body.append(words(start - 8, y + 7 * len(series) + 4, cut(name, 20), "name right"))
        for place, row in enumerate(values):
            value = row[number] if number < len(row) else None
            amount = "-" if value is None else shown(value, unit == "%") + ("" if unit in ("", "%") else f" {unit}")
            said.append(f"{series[place].label} {name}: {amount}".strip())
            bar = (
                '<rect class="bar tone{}" x="{}" y="{:.1f}" width="{:.1f}" height="11" rx="2"><title>{}</title></rect>'
            )
            width = abs(value or 0.0) / largest * room
            body.append(Markup(bar).format(_tone(series[place], place), start, y, width, clean(said[-1])))
            body.append(words(start + width + 6, y + 10, amount))
            y += 14
        y += 0.6 * 14
    height = round(y + rows * ROW + 12)
    return picture(title, "; ".join(said) or EMPTY, height, [*body, *legend])


def heat_map(
    title: str, x: Sequence[float], names: Sequence[str], shares: Sequence[Sequence[float]], x_label: str
) -> Markup:
    """A histogram over time: a row for each of `names`, from the bottom up, a column for each x, darker for more.

    `shares[column][row]` are in [0, 1].

    >>> heat_map("solve rate", [1, 2], ["wrong", "right"], [[1, 0], [0.25, 0.75]], "step").count("<rect")
    3
    """
    if not x:
        return picture(title, EMPTY, TOP + PLOT + BOTTOM, [words(WIDTH / 2, TOP + PLOT / 2, EMPTY, "middle")])
    start, high = 90, PLOT / max(1, len(names))
    wide = (WIDTH - start - RIGHT) / len(x)
    body = [words(start - 8, TOP + PLOT - (i + 0.5) * high + 4, cut(n, 14), "right") for i, n in enumerate(names)]
    cell = '<rect class="cell" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" fill-opacity="{:.2f}">{}</rect>'
    for column, (at, parts) in enumerate(zip(x, shares, strict=True)):
        for row, share in enumerate(parts):
            if real(share):
                note = Markup("<title>{}</title>").format(
                    clean(f"{x_label} {shown(at)}, {names[row]}: {shown(share, True)}")
                )
                place = (start + column * wide, TOP + PLOT - (row + 1) * high, wide * 0.94, high * 0.94)
                body.append(Markup(cell).format(*place, 0.06 + 0.94 * min(1.0, share), note))
    marks = range(0, len(x), max(1, math.ceil(len(x) / 8)))
    body += [words(start + (i + 0.5) * wide, TOP + PLOT + 15, shown(x[i]), "middle") for i in marks]
    body.append(words((start + WIDTH) / 2, TOP + PLOT + 32, x_label, "middle"))
    last = ", ".join(f"{name} {shown(share, True)}" for name, share in zip(names, shares[-1], strict=True))
    group = [Markup('<g class="tone0">'), *body, Markup("</g>")]
    return picture(title, f"{x_label} {shown(x[0])} to {shown(x[-1])}; at the last: {last}", TOP + PLOT + BOTTOM, group)


def sparkline(values: Sequence[float | None], label: str = "") -> Markup:
    """A small line without axes.

    >>> sparkline([1, None, 3], "loss").count("M")
    2
    """
    one = thinned(Series(label, range(len(values)), values))
    found = [y for y in one.y if y is not None]
    low, high = padded(found or [0.0], (None, None))
    across, up = 96 / max(1, len(values) - 1), 20 / (high - low)
    points = [None if y is None else (2 + x * across, 22 - (y - low) * up) for x, y in zip(one.x, one.y, strict=True)]
    text = f"{label}: {_summary(one, False)}" if found else f"{label}: {EMPTY}"
    head = Markup('<svg class="chart spark tone0" role="img" viewBox="0 0 100 24"><title>{}</title>').format(
        clean(text)
    )
    return head + Markup('<path class="line" d="{}"/></svg>').format(path(points))


# --- parts of them ----------------------------------------------------------------------------------


def thinned(series: Series, most: int = MOST) -> Series:
    """The series with at most about `most` points, the lowest and the highest of every stretch among them.

    >>> thinned(Series("", range(9), [0, 1, 0, 5, 0, 1, float("nan"), 1, 0]), 4).y
    [0.0, 5.0, 1.0, 0.0]
    """
    y = [real(value) for value in series.y]
    places = chosen([i for i in range(min(len(series.x), len(y))) if real(series.x[i]) is not None], y, most)
    low, high = ([real(part[i]) if i < len(part) else None for i in places] for part in (series.low, series.high))
    notes = [series.notes[i] if i < len(series.notes) else "" for i in places]
    return replace(
        series, x=[float(series.x[i]) for i in places], y=[y[i] for i in places], low=low, high=high, notes=notes
    )


def _axes(frame: Frame, x_label: str, y_label: str, percent: bool, whole: bool) -> Iterator[Markup]:
    bottom, right = TOP + PLOT, WIDTH - RIGHT
    for value in ticks(frame.low, frame.high):
        y = frame.up(value)
        yield Markup('<path class="grid" d="M{} {:.1f}H{}"/>').format(LEFT, y, right)
        yield words(LEFT - 6, y + 4, shown(value, percent), "right")
    for value in ticks(frame.left, frame.right, 6, whole):
        yield words(frame.across(value), bottom + 15, shown(value), "middle")
    yield Markup('<path class="axis" d="M{} {}H{}"/>').format(LEFT, bottom, right)
    yield words((LEFT + right) / 2, bottom + 32, cut(x_label, 60), "middle")
    yield words(4, TOP - 11, cut(y_label, 60), "unit")


def _tone(series: Series, place: int) -> int:
    return (place if series.tone is None else series.tone) % TONES


def _kind(series: Series, place: int) -> str:
    """The classes of a series: its colour and its dashes."""
    dash = (place if series.tone is None else series.tone) % DASHES if series.style == "line" else 0
    return f"tone{_tone(series, place)} dash{dash} {series.style}"


def _curve(one: Series, place: int, frame: Frame, percent: bool, x_label: str) -> Iterator[Markup]:
    """A series: its interval, its line, and spots that say their numbers."""
    points = [None if y is None else (frame.across(x), frame.up(y)) for x, y in zip(one.x, one.y, strict=True)]
    yield Markup('<g class="{}">').format(_kind(one, place))
    ends = [
        None if None in (point, low, high) or low is None or high is None else (x, frame.up(low), frame.up(high))
        for point, x, low, high in zip(points, map(frame.across, one.x), one.low, one.high, strict=True)
    ]
    for stretch in stretches(ends):
        if one.style in ("dots", "path"):
            marks = "".join(
                f"M{x:.1f} {a:.1f}V{b:.1f}M{x - 3:.1f} {a:.1f}h6M{x - 3:.1f} {b:.1f}h6" for x, a, b in stretch
            )
            yield Markup('<path class="whisker" d="{}"/>').format(marks)
        else:
            around = [*((x, b) for x, _, b in stretch), *((x, a) for x, a, _ in reversed(stretch))]
            yield Markup('<path class="band" d="{}Z"/>').format(path(around))
    if one.style != "dots":
        yield Markup('<path class="line" d="{}"/>').format(path(points))
    seen = [i for i, point in enumerate(points) if point is not None]
    dotted = one.style in ("dots", "path") or len(seen) == 1
    every = 1 if dotted else math.ceil(len(seen) / SPOTS) or 1
    for i in [] if one.style == "faint" else seen[::every]:
        x, y = points[i] or (0.0, 0.0)
        spot = '<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="{}"><title>{}</title></circle>'
        yield Markup(spot).format("dot" if dotted else "spot", x, y, 4, clean(_said(one, i, percent, x_label)))
    yield Markup("</g>")


def _said(one: Series, i: int, percent: bool, x_label: str) -> str:
    """What a point says: its label, its place, its value, its interval, its note."""
    value, low, high = one.y[i], one.low[i], one.high[i]
    text = f"{one.label}, " if one.label else ""
    text += f"{x_label} {shown(one.x[i])}: {shown(value or 0.0, percent)}"
    if low is not None and high is not None:
        text += f" ({shown(low, percent)} to {shown(high, percent)})"
    return text + (f", {one.notes[i]}" if one.notes[i] else "")


def _summary(one: Series, percent: bool) -> str:
    """A series in words."""
    found = [y for y in one.y if y is not None]
    if not found:
        return EMPTY
    first, last, low, high = (shown(y, percent) for y in (found[0], found[-1], min(found), max(found)))
    return f"{first} at first, {last} at last, between {low} and {high}"


def _legend(series: Sequence[Series], top: float = TOP + PLOT + BOTTOM) -> tuple[list[Markup], int]:
    """What the lines are, in rows from `top` down, and the number of rows; nothing for a line on its own."""
    body: list[Markup] = []
    x, row = float(LEFT), 0
    named = [(place, one) for place, one in enumerate(series) if one.label and len(series) > 1]
    for place, one in named:
        label = cut(one.label, 48)
        width = 42 + 6.0 * len(label)
        if x > LEFT and x + width > WIDTH:
            x, row = float(LEFT), row + 1
        y = top + row * ROW + 9
        mark = '<circle class="dot" cx="{:.1f}" cy="{:.1f}" r="4"/>' if one.style in ("dots", "path") else (
            '<path class="line" d="M{:.1f} {:.1f}h22"/>'
        )  # fmt: skip
        at = x + 11 if "circle" in mark else x
        body += [Markup('<g class="{}">').format(_kind(one, place)), Markup(mark).format(at, y), Markup("</g>")]
        body.append(words(x + 28, y + 4, label))
        x += width
    return body, row + 1 if named else 0
