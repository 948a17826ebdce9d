"""The tables of docs/scaling.md are what the plan gives."""

from __future__ import annotations

import runpy

import pytest
from conftest import ROOT


@pytest.fixture(autouse=True)
def tools(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tools import one another."""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))


def test_the_page_is_what_the_code_gives() -> None:
    tool = runpy.run_path(str(ROOT / "tools" / "write_scaling.py"))
    page = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    assert tool["filled"](page, tool["parts"]()) == page, "python tools/write_scaling.py"


def test_the_plan_is_near_what_was_measured() -> None:
    """Within 45% for every number that was not fitted, memory within 20%; NeMo RL's step times within 25%."""
    tool = runpy.run_path(str(ROOT / "tools" / "write_scaling.py"))
    for row in tool["cpu_rows"]():
        allowed = 0.2 if row.unit == "MB" else 0.45
        assert abs(row.planned / row.measured - 1) < allowed, row.what
    for row in tool["nemo_rows"]():
        assert abs(row.planned / row.measured - 1) < 0.25, row.what
