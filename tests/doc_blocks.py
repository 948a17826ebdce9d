"""The code blocks of the pages, and how a page is run: its blocks in order, in a folder of its own.

A block is fenced and names its language. A comment above one says why it is not run: `<!-- not run: needs a GPU -->`.
A first line `# NAME.toml` or `# NAME.py` is the name of the file that the block becomes. Runs take two steps here.
"""

from __future__ import annotations

import doctest
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from conftest import ROOT
from markdown_it import MarkdownIt

LANGUAGES = ("sh", "python", "pycon", "toml", "text")  # text: what is printed, and formulas
DIRECTIVE = re.compile(r"\{[\w-]+\}")  # of Sphinx; `make docs` runs these
NOT_RUN = re.compile(r"<!-- not run: (.+?) -->", re.DOTALL)
NAMED = re.compile(r"# ([\w.-]+\.(?:py|toml|yaml))\b")
PAGES = sorted(ROOT.glob("docs/*.md")) + [
    ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")
]


class Block(NamedTuple):
    """One block: where it stands, its text, and why it is not run (empty where it is)."""

    page: Path
    line: int
    language: str
    text: str
    reason: str

    @property
    def file(self) -> str:
        """The name of the file that it becomes; empty for none."""
        found = NAMED.match(self.text)
        return found[1] if found else ""

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """Every block of a page, indented ones (without a language) included; those of Sphinx left out."""
    found, reason = [], ""
    for token in MarkdownIt().parse(page.read_text(encoding="utf-8")):
        if token.type == "html_block":
            comment = NOT_RUN.search(token.content)
            reason = " ".join(comment[1].split()) if comment else ""
        elif token.type in ("fence", "code_block") and not DIRECTIVE.match(token.info):
            assert token.map is not None
            found.append(Block(page, token.map[0] + 1, token.info.strip(), token.content, reason))
            reason = ""
        elif token.type.endswith("_open"):
            reason = ""
    return found


# --- what is checked of a block that is not run, too -------------------------------------------------


def commands(text: str, program: str = "sieverl") -> Iterator[list[str]]:
    """The arguments of every call of `program` in a shell block, also of those that another one starts.

    >>> list(commands("A=1 torchrun -m sieverl train r.toml \\\\\\n  --steps 3 | head # some"))
    [['train', 'r.toml', '--steps', '3']]
    """
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True) if line.count("'") % 2 == 0 and line.count('"') % 2 == 0 else []
        names = [Path(word).name for word in words]
        if program in names:
            arguments = words[names.index(program) + 1 :]
            ends = [i for i, word in enumerate(arguments) if word in ("|", "&&", ";", ">", "2>", "&")]
            yield arguments[: ends[0]] if ends else arguments


def tables(text: str) -> Mapping[str, Any]:
    """What a TOML block says."""
    return tomllib.loads(text)


def run_doctest(page: Path) -> None:
    """The `pycon` blocks of a page, as one session."""
    text = "".join(block.text for block in blocks(page) if block.language == "pycon" and not block.reason)
    example = doctest.DocTestParser().get_doctest(text, {}, page.name, str(page), 0)
    printed: list[str] = []
    result = doctest.DocTestRunner(verbose=False).run(example, out=printed.append)
    assert result.failed == 0, "".join(printed)


# --- running a page ---------------------------------------------------------------------------------


def runs(block: Block) -> bool:
    """Whether running the page does something with the block."""
    return not block.reason and (block.language in ("sh", "python") or bool(block.file))


def run_page(page: Path, folder: Path, timeout_s: float = 600) -> str:
    """Write the files of a page, and run its commands and its Python in order; what they print."""
    bin_first = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": bin_first, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    printed = ""
    for block in blocks(page):
        if not runs(block):
            continue
        if block.file:
            (folder / block.file).write_text(shortened(block.text), encoding="utf-8")
        python = [sys.executable, block.file] if block.file else [sys.executable, "-c", block.text]
        argv = {"sh": ["bash", "-euc", shortened(block.text)], "python": python}
        if block.language in argv:
            done = subprocess.run(
                argv[block.language], cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout_s
            )
            assert done.returncode == 0, f"{block}\n{block.text}\n{done.stdout}\n{done.stderr}"
            printed += done.stdout
    return printed


def shortened(text: str) -> str:
    """The same with runs of two steps, studies of one seed, and small evaluations in the demo.

    >>> print(shortened("steps = 60\\nsieverl demo --algorithm grpo"))
    steps = 2
    sieverl demo --steps 2 --evaluate.limit 16 --algorithm grpo
    """
    text = re.sub(r"^steps = \d+", "steps = 2", text, flags=re.MULTILINE)
    text = re.sub(r"^seeds = .*", "seeds = [1]", text, flags=re.MULTILINE)
    return re.sub(r"\bsieverl demo\b", "sieverl demo --steps 2 --evaluate.limit 16", text)
