"""The commands and the code of docs/data.md run as they stand."""

from __future__ import annotations

from pathlib import Path

from conftest import ROOT
from doc_blocks import run_page


def test_every_command_of_the_page_works(tmp_path: Path) -> None:
    printed = run_page(ROOT / "docs" / "data.md", tmp_path)
    assert "1 │ duplicate" in printed
    assert "1 │ no answer" in printed
    assert "2 │ kept" in printed
    assert r"What is half of 7? \frac{7}{2}" in printed
