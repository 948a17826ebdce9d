"""docs/study.md and its figures are what the committed results give."""

from __future__ import annotations

import runpy
from typing import Any

import pytest
from conftest import ROOT

from sieverl.study.table import csv_text, markdown


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What writes the page; tools import one another."""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    return runpy.run_path(str(ROOT / "tools" / "write_study.py"))


def test_the_page_is_what_the_results_give(tool: dict[str, Any]) -> None:
    page = (ROOT / "docs" / "study.md").read_text(encoding="utf-8")
    assert tool["filled"](page, tool["parts"]()) == page, "python tools/write_study.py"


def test_the_figures_are_what_the_results_give(tool: dict[str, Any]) -> None:
    made = {name: svg for done in tool["studies"]() for name, svg in tool["figures"](done)}
    kept = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("study-*.svg")}
    assert made == kept, "python tools/write_study.py"
    page = (ROOT / "docs" / "study.md").read_text(encoding="utf-8")
    assert [name for name in made if f"]({name})" not in page] == []


def test_the_tables_of_each_study_are_what_its_results_give(tool: dict[str, Any]) -> None:
    for done in tool["everything"]():
        if done.results:
            folder = done.folder
            assert (folder / "table.md").read_text(encoding="utf-8") == markdown(done.study, done.results), folder
            assert (folder / "table.csv").read_text(encoding="utf-8") == csv_text(done.study, done.results), folder


def test_every_result_is_of_a_study(tool: dict[str, Any]) -> None:
    for done in tool["everything"]():
        cells = {(arm, seed) for arm in done.study.arms for seed in done.study.seeds}
        found = [(run.arm, run.seed) for run in done.results]
        assert len(set(found)) == len(found)
        assert set(found) <= cells, done.name
