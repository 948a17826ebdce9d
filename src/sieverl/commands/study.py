"""`sieverl study`: a grid of runs, algorithms by seeds, one table and the verdicts on claims."""

from __future__ import annotations

import argparse
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sieverl.errors import DataError, ExitCode, SieveRLError, UsageError, nearest

if TYPE_CHECKING:
    from rich.console import Console

    from sieverl.study.plan import Cell, Study
    from sieverl.study.process import Ended
    from sieverl.study.results import Result

RESULTS, TABLE, CSV, REPORT = "results.jsonl", "table.md", "table.csv", "report.html"


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of `sieverl study`."""

    studies: list[str]
    output: str | None
    processes: int | None
    dry_run: bool
    table: bool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `sieverl study`."""
    about = "arms, seeds and claims (docs/studies.md); of several files the right one wins"
    parser.add_argument("studies", nargs="+", metavar="STUDY.toml", help=about)
    parser.add_argument("--output", metavar="DIR", help="default: runs/ and the name of the last file")
    parser.add_argument("--processes", type=int, metavar="N", help="cells at a time; default: what the study says")
    parser.add_argument("--dry-run", action="store_true", help="check every recipe, and list the cells; run nothing")
    parser.add_argument("--table", action="store_true", help="only write the tables again, from the results there are")


def run(options: Options) -> ExitCode:
    """Run the cells that have no result yet, and write the tables and the report."""
    from sieverl.display.terminal import Terminal
    from sieverl.files import check_writable, make_folder
    from sieverl.run_dir.lock import Lock
    from sieverl.study.plan import cells_of, read_study
    from sieverl.study.results import load_results

    paths = [Path(name) for name in options.studies]
    study = read_study(*paths)
    if options.processes is not None:
        if options.processes < 1:
            raise UsageError(f"--processes {options.processes}: give 1 or more, or leave it out")
        study = study.model_copy(update={"processes": options.processes})
    output = Path(options.output or f"runs/{paths[-1].stem}")
    cells = cells_of(study, output)
    console: Console = Terminal(soft_wrap=True, highlight=False)
    if options.dry_run:
        return listed(study, cells, known(load_results(output / RESULTS), study, cells, output / RESULTS), console)
    check_writable(output, "the study", "--output")
    make_folder(output)
    lock = Lock()
    lock.take(output, "--output")
    try:
        before = load_results(output / RESULTS)
        results = known(before, study, cells, output / RESULTS)
        others = [result for result in before if result not in results]
        watch = Watch(study, cells, results, others, output, console)
        number = None if options.table else run_missing(watch)
        if results:
            write_tables(study, results, cells, output, console)
    finally:
        lock.close()
    if watch.failed and number is None:
        first = watch.failed[0]
        raise DataError(
            f"{len(watch.failed)} of the cells failed, and no more of their arms were run; {first.cell.name}, exit "
            f"code {first.code}: {first.said or 'it said nothing'} ({output / 'logs' / first.cell.name}.log)"
        )
    if number is not None or (len(results) < len(cells) and not options.table):
        console.print(f"stopped with {len(results)} of {len(cells)} cells; the same command goes on")
        return ExitCode.INTERRUPTED if number == signal.SIGINT else ExitCode.PREEMPTED
    return ExitCode.DONE


def known(results: Sequence[Result], study: Study, cells: Sequence[Cell], file: Path) -> list[Result]:
    """The results of the cells, in their order.

    Raises a UsageError where the study has other settings now than when one was run, asks for a metric that was not
    kept of it, or where the file has a run twice.
    """
    by_name = {(cell.arm, cell.seed): cell for cell in cells}
    kept = [result for result in results if (result.arm, result.seed) in by_name]
    if len(names := [(result.arm, result.seed) for result in kept]) > len(set(names)):
        arm, seed = next(name for name in names if names.count(name) > 1)
        raise UsageError(f"{file} has {arm}, seed {seed} twice; delete one of the lines")
    changed = [r for r in kept if r.settings != by_name[r.arm, r.seed].digest]
    if changed:
        arms = ", ".join(dict.fromkeys(result.arm for result in changed))
        raise UsageError(
            f"the settings of {arms} are not those that {file} was made with; give another --output, or delete the "
            "lines of these arms there and their directories in runs/, and they are run again"
        )
    for result in kept:
        lacking = [metric for metric in study.metrics if (metric or result.heldout) not in result.metrics]
        if lacking and not result.stopped:
            raise UsageError(
                f"{file} has no {lacking[0]!r} of {result.arm}, seed {result.seed}; it was not asked for when that was "
                f"run.{nearest(lacking[0], result.metrics)} Delete the line, and the same command reads it from runs/, "
                "or runs the cell again where that is gone"
            )
    places = {name: place for place, name in enumerate(by_name)}
    return sorted(kept, key=lambda one: places[one.arm, one.seed])


def listed(study: Study, cells: Sequence[Cell], results: Sequence[Result], console: Console) -> ExitCode:
    """Check the recipe of every arm, and say what would be run."""
    from sieverl.study.process import command_of
    from sieverl.training.dry_run import dry_run

    done = {(result.arm, result.seed) for result in results}
    for cell in cells[: len(study.arms)]:  # one of each arm
        try:
            dry_run(cell.recipe, say=lambda line: None)
        except SieveRLError as error:
            raise type(error)(f"arms.{cell.arm}: {error}") from error
        seeds = [seed for seed in study.seeds if (cell.arm, seed) not in done]
        todo = f"seeds {', '.join(map(str, seeds))}" if seeds else "nothing left to run"
        console.print(f"{cell.arm}: {cell.recipe.algorithm}, {cell.recipe.steps} steps, {todo}")
    command = " ".join(command_of(study, Path("R.toml")))
    console.print(f"{len(cells)} cells, {len(done)} with a result; a cell: {command}")
    return ExitCode.DONE


def run_missing(watch: Watch) -> int | None:
    """Run the cells without a result. Returns the signal that stopped it, if one did."""
    from sieverl.study.process import check_unchanged, run_cells, slots
    from sieverl.training.signals import stop_requests

    study, done = watch.study, {(result.arm, result.seed) for result in watch.results}
    todo = [cell for cell in watch.cells if (cell.arm, cell.seed) not in done]
    if not todo:
        return None
    check_unchanged(todo, watch.output)
    places = slots(study, todo, gpus(), os.cpu_count() or 1)
    watch.todo, watch.places = len(todo), len(places)
    watch.console.print(f"{len(todo)} of {len(watch.cells)} cells to run, {len(places)} at a time, in {watch.output}")
    with stop_requests() as asked:
        return run_cells(study, todo, watch.output, places, asked, watch)


@dataclass
class Watch:
    """What is done when a cell has ended: its result is saved in the order of the cells, and a line is printed.

    `others` are results in the same file of cells that the study does not have now; they stay there.
    """

    study: Study
    cells: Sequence[Cell]
    results: list[Result]
    others: Sequence[Result]
    output: Path
    console: Console
    todo: int = 0
    places: int = 1
    failed: list[Ended] = field(default_factory=list)
    spent: list[float] = field(default_factory=list)

    def __call__(self, end: Ended) -> None:
        """A cell has ended; of one that was interrupted there is nothing to keep yet."""
        from sieverl.study.process import INTERRUPTED
        from sieverl.study.results import result_of, save_results

        if end.code in INTERRUPTED:
            return
        if end.code not in (ExitCode.DONE, ExitCode.ALARM):
            self.failed.append(end)
            self.console.print(f"{end.cell.name} failed, exit code {end.code}: {end.said}", style="red")
            return
        result = result_of(end.cell, self.study, (end.said or "by an alarm") if end.code == ExitCode.ALARM else "")
        self.results.append(result)
        order = {(cell.arm, cell.seed): place for place, cell in enumerate(self.cells)}
        self.results.sort(key=lambda one: order[one.arm, one.seed])
        save_results(self.output / RESULTS, [*self.results, *self.others])
        self.spent.append(end.seconds)
        self.console.print(self._line(result, end))

    def _line(self, result: Result, end: Ended) -> str:
        from sieverl.display.console import duration
        from sieverl.study.table import moved

        left = self.todo - len(self.spent) - len(self.failed)
        seconds = left * sum(self.spent) / len(self.spent) / self.places
        rest = f"; about {duration(seconds)} left" if left else ""
        why = f" (stopped at step {result.step}: {result.stopped})" if result.stopped else ""
        at = f"{len(self.spent)}/{self.todo}"
        return f"{at} {end.cell.name}: {moved(self.study, result)}, {end.seconds:.0f} s{why}{rest}"


def gpus() -> int:
    """GPUs that PyTorch sees."""
    import torch

    return torch.cuda.device_count()


def write_tables(
    study: Study, results: Sequence[Result], cells: Sequence[Cell], output: Path, console: Console
) -> None:
    """Write table.md and table.csv; with all cells done and their runs there, report.html too."""
    from sieverl.files import write_text
    from sieverl.study.table import csv_text, judged, markdown

    write_text(output / TABLE, markdown(study, results))
    write_text(output / CSV, csv_text(study, results))
    for one in judged(study, results):
        console.print(f"{one.verdict}{f' ({one.why})' if one.why else ''}: {one.claim.text}")
    console.print(f"table:  {output / TABLE}")
    folders = [Path(cell.recipe.run_dir) for cell in cells]
    if len(results) == len(cells) and all((folder / "metrics.jsonl").is_file() for folder in folders):
        from sieverl.display.report.page import write_report
        from sieverl.run_dir.saved import read_run

        write_report([read_run(folder) for folder in folders], output / REPORT)
        console.print(f"report: {output / REPORT}")
