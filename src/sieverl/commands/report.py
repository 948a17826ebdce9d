"""`sieverl report`: what runs learned, as one HTML file."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sieverl.errors import UsageError, first_line

NAME = "report.html"
OUTPUT_HELP = f"default: {NAME} in the run's directory, for several runs in the current one"


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of `sieverl report`."""

    runs: Sequence[str]
    output: str | None
    figures: str | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `sieverl report`."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="directories of runs; several are laid over each other")
    parser.add_argument("--output", metavar="FILE.html", help=OUTPUT_HELP)
    parser.add_argument("--figures", metavar="DIR", help="also write each chart there, as SVG")


def run(options: Options) -> None:
    """Write the report, and say where it is."""
    from sieverl.display.report.page import write_report
    from sieverl.display.terminal import Terminal
    from sieverl.files import check_writable
    from sieverl.run_dir.saved import read_run

    named: dict[Path, Path] = {}
    for path in map(Path, options.runs):
        named.setdefault(path.resolve(), path)  # a run that is named twice is one
    folders = list(named.values())
    output = Path(options.output or (folders[0] / NAME if len(folders) == 1 else NAME))
    runs = [read_run(path) for path in folders]
    if output.is_dir():
        raise UsageError(f"--output {output} is a directory; give the name of a file, such as {output / NAME}")
    check_writable(output.parent, "the report in", "--output")
    if options.figures:
        check_writable(Path(options.figures), "the figures", "--figures")
    write_report(runs, output, Path(options.figures) if options.figures else None)
    console = Terminal(soft_wrap=True)
    console.print(f"report: {output}", highlight=False)
    if options.figures:
        console.print(f"figures: {options.figures}", highlight=False)


def at_the_end(run_dir: Path) -> str:
    """Where the report of a run that has just ended is, or why there is none; it never fails the run."""
    from sieverl.display.report.page import write_report
    from sieverl.run_dir.saved import read_run

    try:
        return str(write_report([read_run(run_dir)], run_dir / NAME))
    except Exception as error:  # the run is done and saved: nothing here may take that away
        return f"not written: {type(error).__name__}: {first_line(error)}"
