"""The pages: the picture of the house can be drawn, tables made from the code equal it, links lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from sieverl.errors import ExitCode

PACKAGE = ROOT / "src" / "sieverl"
PAGES = [ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG")] + sorted(ROOT.glob("docs/*.md"))


def exit_code_table() -> str:
    """The table of docs/design.md, from the enum."""
    return "\n".join(["| code | meaning |", "|-|-|", *(f"| {code.value} | {code.meaning} |" for code in ExitCode)])


def test_the_table_of_exit_codes_is_the_enum():
    assert exit_code_table() in (ROOT / "docs" / "design.md").read_text()


def test_every_room_has_its_line_in_the_design():
    page = (ROOT / "docs" / "design.md").read_text()
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert set(re.findall(r"^\| `(\w+)/` \|", page, re.MULTILINE)) == rooms


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere_and_lines_are_short(page):
    text = page.read_text()
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]+))?\)", text):
        file = page.parent / target if target else page
        assert file.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors(file), f"{page.name} links to {target}#{anchor}"
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    long = [line for line in prose.splitlines() if len(line) > 125 and not line.startswith("|")]
    assert not long


def anchors(file: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_files_that_pages_name_are_there():
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "docs" / "design.md"):
        for name in re.findall(r"`((?:src|tests|docs|tools|bench|recipes)/[\w/.]+)`", page.read_text()):
            assert (ROOT / name).exists(), f"{page.name} names {name}"


def test_the_house_can_be_drawn(tmp_path):
    out = tmp_path / "house.png"
    subprocess.run([sys.executable, str(ROOT / "tools" / "draw_house.py"), "--out", str(out)], check=True)
    assert out.read_bytes().startswith(b"\x89PNG")
    assert (ROOT / "docs" / "house.png").stat().st_size < 200_000


def test_a_house_with_a_circle_can_be_drawn(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    from draw_house import arrows_of, draw, floors_of

    graph = {"p.a": {"p.b", "p.c"}, "p.b": {"p.c", "p.d"}, "p.c": {"p.b"}, "p.d": set()}
    assert set(floors_of(graph)) == set(graph)
    assert ("p.b", "p.c") in arrows_of(graph)
    assert ("p.c", "p.b") in arrows_of(graph)
    package = tmp_path / "p"
    for room, other in (("a", "b"), ("b", "a")):
        (package / room).mkdir(parents=True)
        (package / room / "__init__.py").write_text(f"from p.{other} import x")
    draw(package, tmp_path / "p.png")
    assert (tmp_path / "p.png").stat().st_size > 1000
