"""The content of a report as one HTML file without any script, and its charts as files."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import jinja2
from markupsafe import Markup

from sieverl.display import svg
from sieverl.display.report.build import build
from sieverl.display.report.content import Figure, Report
from sieverl.files import make_folder, storing, write_text
from sieverl.run_dir.saved import SavedRun
from sieverl.text import printable


def write_report(runs: Sequence[SavedRun], output: Path, figures: Path | None = None) -> Path:
    """Write the report on these runs, whole or not at all, and its charts as SVG into a folder if one is given."""
    report = build(runs)
    with storing("the report", output.parent):
        write_text(output, html(report))
    if figures is not None:
        write_figures(report.figures, figures)
    return output


def write_figures(figures: Sequence[Figure], folder: Path) -> list[Path]:
    """Each chart as an SVG file of its own."""
    paths = [folder / f"{figure.name}.svg" for figure in figures]
    with storing("the figures", folder):
        make_folder(folder)
        for path, figure in zip(paths, figures, strict=True):
            write_text(path, svg.standalone(figure.svg))
    return paths


def html(report: Report) -> str:
    """The page. All text in it is escaped; characters that would hide or reorder text are shown as their escapes."""
    return _environment().get_template("report.html.j2").render(report=report)


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sieverl.display.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    own = Path(__file__).with_name("style.css").read_text(encoding="utf-8")
    environment.globals["style"] = Markup(svg.style() + own)
    return environment


def _shown(value: object) -> object:
    return value if isinstance(value, Markup) else printable(str(value))
