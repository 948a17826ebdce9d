"""Every code block of every page is run, checked, or says above itself why not; every command names what there is."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import tomli_w
from conftest import ROOT
from doc_blocks import LANGUAGES, PAGES, Block, blocks, commands, run_doctest, run_page, runs
from saved_runs import make_run

from sieverl.cli import main
from sieverl.recipe import RENAMED, build, keys
from sieverl.study.plan import cells_of, read_study

EVERY = [block for page in PAGES for block in blocks(page)]
PROGRAMS = ("sieverl", "pip", "python", "make", "torchrun", "ray", "vllm", "hf", "sbatch", "kubectl", "uvx", "pipx")
# Pages with a test of their own that runs all of their blocks
OWN = {"data.md": "tests/data/test_data_docs.py", "machines.md": "tests/launch/test_machines_page.py"}
TO_RUN = [page for page in PAGES if page.name not in OWN and any(runs(block) for block in blocks(page))]
# Runs that the commands of a page read
SAVED = {
    "curves.md": {"demo-1": 3},
    "no-learning.md": {"demo-1": 1},
    "report.md": {"grpo-1": 2, "grpo-2": 2, "raft-1": 2},
    "run-directory.md": {"demo-1": 120},
}


def of(*languages: str) -> list[Block]:
    return [block for block in EVERY if block.language in languages]


def test_every_block_says_its_language():
    wrong = [f"{block} is {block.language or 'indented, or without a language'}" for block in EVERY
             if block.language not in LANGUAGES]  # fmt: skip
    assert not wrong, f"a block is one of {', '.join(LANGUAGES)}, between ``` and ```"


def test_commands_are_in_blocks_that_are_run():
    """A block of `text` is what is printed, and formulas: a command in it would be one that no test sees."""
    wrong = [str(block) for block in of("text") for line in block.text.splitlines() if line.split(" ")[0] in PROGRAMS]
    assert not wrong


def test_tables_are_recipes_or_studies(tmp_path):
    least = {"recipe": "demo", "seeds": [1], "baseline": "a", "arms": {"a": {}}}
    for block in of("toml"):
        tables = tomllib.loads(block.text)
        if tables.keys() & {"seeds", "command"}:
            (path := tmp_path / "study.toml").write_text(tomli_w.dumps(least | tables))
            assert cells_of(read_study(path), tmp_path)
        else:
            build(tables)


def test_python_and_shell_can_be_read():
    for block in of("python"):
        compile(block.text, str(block), "exec")
    for block in of("sh"):
        done = subprocess.run(["bash", "-n"], input=block.text, text=True, capture_output=True)
        assert done.returncode == 0, f"{block}: {done.stderr}"


def test_sessions_print_what_they_say():
    for page in sorted({block.page for block in of("pycon")}):
        run_doctest(page)


@pytest.fixture(scope="module")
def options() -> dict[str, set[str]]:
    """command -> the options that its help names."""
    found: dict[str, set[str]] = {}
    return found


def known(command: str, capsys: pytest.CaptureFixture[str], options: dict[str, set[str]]) -> set[str]:
    if command not in options:
        try:
            code: object = main([*command.split(), "--help"])
        except SystemExit as left:
            code = left.code
        assert not code, f"there is no command {command}"
        options[command] = set(re.findall(r"(?<![\w-])--?[a-z][\w.-]*", capsys.readouterr().out))
    return options[command]


def test_commands_and_their_options_are_there(capsys, options):
    """Of every block, also of those that are not run, and of `sieverl ...` within a sentence."""
    called = [(str(block), arguments) for block in of("sh") for arguments in commands(block.text)]
    for page in PAGES:
        sentences = re.findall(r"(?<!`)`(sieverl [a-z][^`\n]*)`(?!`)", page.read_text())
        called += [(page.name, arguments) for text in sentences for arguments in commands(text)]
    assert len(called) > 50
    recipe = {name for name, _ in keys()} | set(RENAMED)
    for where, arguments in called:
        if not arguments or arguments[0].startswith("-"):  # a package to install; the options of the command itself
            continue
        names = known(" ".join(arguments[:2] if arguments[0] == "data" else arguments[:1]), capsys, options)
        for option in (word.partition("=")[0] for word in arguments if re.match(r"--?[a-z]", word)):
            name = option.lstrip("-")
            assert option in names or name in recipe or name.startswith("verify."), f"{where}: {option}"


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", TO_RUN, ids=lambda page: page.name)
def test_a_page_runs(page: Path, tmp_path: Path):
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    for name, steps in SAVED.get(page.name, {}).items():
        make_run(tmp_path / "runs", name, steps)
    run_page(page, tmp_path)
