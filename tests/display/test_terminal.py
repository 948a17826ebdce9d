"""What a model wrote is text in the terminal: no escape sequence, no markup, no hidden or reversed characters."""

from __future__ import annotations

import io
import re
import unicodedata
from pathlib import Path

import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.panel import Panel
from rich.table import Table

from sieverl import cli
from sieverl.commands import demo, doctor
from sieverl.display.console import Progress
from sieverl.display.terminal import Terminal
from sieverl.errors import DataError
from sieverl.recipe import Recipe
from sieverl.run_dir.rollouts import RolloutRow
from sieverl.text import printable, storable
from sieverl.types import Note

STYLE = re.compile(r"\x1b\[[0-9;]*m")  # rich's own colours
HOSTILE = (
    "\x1b]0;title\x07", "\x1b]8;;http://x\x1b\\click\x1b]8;;\x1b\\", "\x1b[2J\x1b[H", "\x9b31m", "a\rb", "\x08\x08",
    "\u202egnp.exe", "\u2066x\u2069", "a\u200bb", "\U000e0041", "\ud800", "\x00", "[bold]x[/]", "[link=http://x]y[/link]",
    "[/]", "[", "\\", "\\[", "x\\\\", ":smile:", "[red", "\x85", "\u2028",
)  # fmt: skip


def steers(text):
    """The characters that are not plain text."""
    kinds = ("Cc", "Cf", "Cs", "Zl", "Zp")
    allowed = "\n\u00ad\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u08e2\u0890\u0891\u180e\u200c\u200d"
    return [c for c in text if unicodedata.category(c) in kinds and c not in allowed and ord(c) < 0x11000]


def shown(act):
    """What reaches a colour terminal when `act` prints on a console."""
    out = io.StringIO()
    act(Terminal(file=out, force_terminal=True, color_system="truecolor", width=200, legacy_windows=False))
    return STYLE.sub("", out.getvalue())


anything = st.lists(st.sampled_from(HOSTILE) | st.text(st.characters(), max_size=8), max_size=6).map("".join)


@settings(max_examples=200, deadline=None)
@given(anything)
def test_printable_text_has_nothing_that_steers(text):
    assert not steers(printable(text).replace("\t", " "))
    assert printable(printable(text)) == printable(text)
    printable(text).encode()
    storable(text).encode()
    plain = "".join(c for c in text if c.isascii() and c.isprintable())
    assert printable(plain) == plain


@settings(max_examples=100, deadline=None)
@given(anything)
def test_a_terminal_shows_whatever_it_is_given_as_text(text):
    def act(console):
        table = Table(text, "b", title=text, caption=text)
        table.add_row(text, text)
        console.print(table)
        console.print(text, highlight=False)
        console.print(f"in {text}", style="bold")
        console.print(Panel(printable(text)))

    found = shown(act)
    assert not steers(found)
    found.encode()


@pytest.mark.parametrize("text", [text for text in HOSTILE if text.isascii() and text.isprintable()])
def test_markup_and_emoji_stay_as_they_were_written(text):
    assert shown(lambda console: console.print(text, highlight=False)).rstrip("\n").startswith(printable(text)[:150])


def row(response, correct):
    return RolloutRow(
        step=0, group=0, sample=0, prompt_id=0, prompt=response, answer="4", response=response, reward=0.0,
        correct=correct, status="correct", length=1, truncated=False, logp=0.0,
    )  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_the_end_of_the_demo_shows_responses_as_text(monkeypatch, text):
    from sieverl.run_dir import manifest, rollouts

    monkeypatch.setattr(manifest, "steps", lambda path: [1])
    monkeypatch.setattr(rollouts, "read_evaluation", lambda run_dir, step: {(0, 0): row(text, bool(step))})
    found = shown(lambda console: demo.ending(Path("r"), console))
    assert not steers(found)
    shorter = printable(text).splitlines()[0][:20]
    assert shorter in found


def test_notes_and_errors_are_text(capsys, monkeypatch):
    metrics = {
        "step": 1, "reward/accuracy": 0.0, "reward/mean": 0.0, "select/kept_fraction": 0.0, "policy/entropy": 0.0,
        "rollout/tokens_per_second": 1.0,
    }  # fmt: skip
    for text in HOSTILE:
        found = shown(lambda console, text=text: Progress(Recipe(), 0, True, console)(metrics, [Note(text, True)]))
        assert not steers(found)

    def fail(options):
        raise DataError("".join(HOSTILE))

    monkeypatch.setattr(doctor, "run", fail)
    assert cli.main(["doctor"]) == 3
    assert not steers(capsys.readouterr().err)


def test_every_command_prints_on_such_a_terminal():
    wrong = {
        str(file.relative_to(ROOT))
        for file in (ROOT / "src").rglob("*.py")
        if re.search(r"\b(Console\(|escape\(|from_markup|markup=True)", file.read_text())
        and file.parent.name in ("commands", "display", "training", "launch", "evaluation")
        and file.name != "terminal.py"
    }
    assert not wrong, "print on sieverl.display.terminal.Terminal"
