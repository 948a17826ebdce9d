"""The pages: the picture of the house can be drawn, tables made from the code equal it, links lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from house import imports, reached
from runs import run_it

from sieverl.errors import ExitCode
from sieverl.migrate.verl_fields import FIELDS
from sieverl.recipe import RENAMED, keys
from sieverl.run_dir.metrics import MetricsLog

PACKAGE = ROOT / "src" / "sieverl"
PAGES = [ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG", "SECURITY")] + sorted(
    ROOT.glob("docs/*.md")
)


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
def test_links_lead_somewhere(page):
    text = page.read_text()
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]+))?\)", text):
        file = page.parent / target if target else page
        assert file.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors(file), f"{page.name} links to {target}#{anchor}"


WIDE = ("data.md", "models.md", "verifiers.md")  # not wrapped


@pytest.mark.parametrize("page", [p for p in PAGES if p.name not in WIDE], ids=lambda page: page.name)
def test_lines_are_short(page):
    prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert not [line for line in prose.splitlines() if len(line) > 125 and not line.startswith("|")]


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
    assert (ROOT / "docs" / "house.png").stat().st_size < 250_000


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


def test_rooms_import_nothing_of_what_the_design_says():
    page, graph = (ROOT / "docs" / "design.md").read_text(), imports(PACKAGE)
    rows = re.findall(r"^\| `(\w+)/` \|[^|]*\|([^|]*)\|$", page, re.MULTILINE)
    said = {room: re.findall(r"`(\w+)`", strangers) for room, strangers in rows}
    assert {stranger for strangers in said.values() for stranger in strangers} <= set(said)
    for name in graph:
        strangers = said.get(name.split(".")[1] if "." in name else "", [])
        found = {m for m in reached(name, graph) if m.split(".")[1:2] and m.split(".")[1] in strangers}
        assert not found, f"{name} imports {found}"


def metrics_of_the_page() -> set[str]:
    """The names in the first column of docs/metrics.md."""
    return set(re.findall(r"^\| `([^`]+)` \|", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE))


def test_the_metrics_of_a_run_are_those_of_the_page(tmp_path):
    """Of a run with a critic, a sieve and a reward of parts: what is there is on the page, and the reverse."""
    parts = ({"name": "math", "weight": 1.0}, {"name": "number", "weight": 0.1})
    run_it(tmp_path / "run", steps=1, algorithm="ppo", verify__name="sum", verify__parts=parts, axes__sieve=0.3)
    rows = MetricsLog(tmp_path / "run" / "metrics.jsonl").rows()
    written = {name.replace("@2", "@<k>").replace("/heldout/", "/<name>/") for row in rows for name in row}
    written = {re.sub(r"^reward/(math|number)/", "reward/<part>/", name) for name in written}
    assert written == metrics_of_the_page()


def test_metrics_say_what_is_good_and_what_to_do():
    text = (ROOT / "docs" / "metrics.md").read_text()
    rows = re.findall(r"^\| `([^`]+)` \| (.+?) \| (.+?) \| ?(.*?) ?\|$", text, re.MULTILINE)
    assert len(rows) == len(metrics_of_the_page())
    assert not [name for name, about, good, _ in rows if not about or not good]
    assert not [name for name, _, good, do in rows if good in ("up", "down", "0") and not do and "eval" not in name]


def test_metrics_that_the_code_and_the_pages_name_are_on_the_page():
    """A chart, an alarm or a sentence of a metric that no run writes would stay empty."""
    rooms = "reward|select|policy|train|ranks|nonfinite|rollout|verify|memory|time"
    known = metrics_of_the_page()
    for path in [*PACKAGE.rglob("*.py"), *PAGES]:
        for name in set(re.findall(rf"[`\"]((?:{rooms})/[a-z_]+)[`\"]", path.read_text())):
            assert name in known, f"{path.name} names {name}"


def test_recipe_keys_that_pages_name_exist():
    known = {name for name, _ in keys()} | set(RENAMED)
    tables = {name.partition(".")[0] for name in known if "." in name} - {
        "verify"
    }  # which takes the verifier's own keys
    for page in PAGES:
        for name in re.findall(r"`([a-z_]+\.[a-z_]+)(?: = [^`]*)?`", page.read_text()):
            table, _, key = name.partition(".")
            is_file = key in ("md", "py", "json", "jsonl", "toml", "png")
            of_verl = name in FIELDS  # which has tables of our names
            assert table not in tables or is_file or of_verl or name in known, f"{page.name} names {name}"
