"""The cells of a study as processes, some at a time: each is the command that trains its recipe.

A cell that was interrupted goes on from its checkpoint, as every run does, and is what it would have been.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from sieverl.errors import ExitCode, UsageError
from sieverl.files import make_folder, write_text
from sieverl.recipe import to_toml
from sieverl.study.plan import Cell, Study
from sieverl.verify.limits import signal_when_parent_dies

COMMAND = ("{python}", "-m", "sieverl", "train", "{recipe}", "--display", "none")
INTERRUPTED = (ExitCode.PREEMPTED, ExitCode.INTERRUPTED)
POLL_S = 0.1
KILL_AFTER_S = 60.0  # a cell that was asked to stop and does not
SETTINGS = "# settings "  # the first line of a cell's recipe: what its run was begun with


@dataclass(frozen=True)
class Ended:
    """A cell whose process ended: its exit code, its seconds, the last line that it printed."""

    cell: Cell
    code: int
    seconds: float
    said: str


@dataclass
class Running:
    """A process of a cell, in its slot."""

    cell: Cell
    slot: int
    process: subprocess.Popen[bytes]
    log: Path
    began: float = field(default_factory=time.monotonic)


def command_of(study: Study, recipe: Path) -> list[str]:
    """The command of a cell. Raises a UsageError for one that does not name the recipe."""
    words = list(study.command or COMMAND)
    if not any("{recipe}" in word for word in words):
        raise UsageError(f"command = {words} does not say {{recipe}}, where the file of a cell goes; add it")
    return [word.replace("{recipe}", str(recipe)).replace("{python}", sys.executable) for word in words]


def slots(study: Study, cells: Sequence[Cell], gpus: int, cores: int) -> list[Mapping[str, str]]:
    """The environment of each process that may run at a time: one for each GPU, else one for each `threads` cores.

    With a `command` of the study's own each process sees every GPU.

    >>> len(slots(Study(seeds=[1], baseline="a", arms={"a": {}}), [], gpus=0, cores=4))
    4
    """
    if study.command:
        return [{}] * (study.processes or 1)
    if gpus and any(cell.recipe.model.device != "cpu" for cell in cells):
        shown = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        names = shown if len(shown) == gpus and all(shown) else [str(number) for number in range(gpus)]
        return [{"CUDA_VISIBLE_DEVICES": names[place % gpus]} for place in range(study.processes or gpus)]
    threads = max((cell.recipe.threads for cell in cells), default=1) or cores
    return [{}] * (study.processes or max(1, cores // threads))


def run_cells(
    study: Study,
    cells: Sequence[Cell],
    output: Path,
    places: Sequence[Mapping[str, str]],
    asked: Sequence[int],
    ended: Callable[[Ended], None],
) -> int | None:
    """Run the cells, as many at a time as there are places; `ended` is told of each.

    `asked` are the signals received so far: after one, the running cells save and stop, and the signal is returned.
    Cells of an arm of which one failed are not started; neither is anything else after an error in `ended`. A cell that
    somebody else interrupted is left for another time.
    """
    waiting, failed = list(cells), set[str]()
    running: list[Running] = []
    free = list(range(len(places)))
    try:
        while running or (waiting and not asked):
            while free and waiting and not asked:
                cell = waiting.pop(0)
                if cell.arm not in failed:
                    running.append(start(study, cell, output, free.pop(0), places))
            for one in [each for each in running if each.process.poll() is not None]:
                running.remove(one)
                free.append(one.slot)
                end = Ended(one.cell, one.process.returncode, time.monotonic() - one.began, last_line(one.log))
                if end.code not in (ExitCode.DONE, ExitCode.ALARM, *INTERRUPTED):
                    failed.add(one.cell.arm)
                ended(end)
            if asked:
                break
            time.sleep(POLL_S)
    finally:
        stop(running)
    return asked[0] if asked else None


def start(study: Study, cell: Cell, output: Path, slot: int, places: Sequence[Mapping[str, str]]) -> Running:
    """Start the process of a cell; what it prints goes to its log."""
    recipe, log = recipe_file(output, cell), output / "logs" / f"{cell.name}.log"
    for folder in (recipe.parent, log.parent):
        make_folder(folder)
    write_text(recipe, f"{SETTINGS}{cell.digest}\n{to_toml(cell.recipe)}")
    with log.open("ab") as file:
        process = subprocess.Popen(
            command_of(study, recipe),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env={**own_environment(), **places[slot]},
            start_new_session=True,  # a Ctrl-C reaches the study, which asks its cells to stop
            preexec_fn=partial(signal_when_parent_dies, signal.SIGTERM),  # of a study that is killed they save and stop
        )
    return Running(cell, slot, process, log)


def recipe_file(output: Path, cell: Cell) -> Path:
    """Where the recipe of a cell is."""
    return output / "recipes" / f"{cell.name}.toml"


def check_unchanged(cells: Sequence[Cell], output: Path) -> None:
    """Raise a UsageError for a run that was begun with other settings, code or data than it would go on with."""
    for cell in cells:
        file = recipe_file(output, cell)
        if file.is_file() and Path(cell.recipe.run_dir).is_dir():
            begun = file.read_text(encoding="utf-8", errors="replace").splitlines()[:1]
            if begun and begun[0].startswith(SETTINGS) and begun[0] != SETTINGS + cell.digest:
                raise UsageError(
                    f"{cell.recipe.run_dir} was begun with other settings, or with other code or data in the files "
                    "that its recipe names; delete it, and it is run again, or give another --output"
                )


def own_environment() -> dict[str, str]:
    """The environment of a cell: without variables that would change its recipe."""
    return {name: text for name, text in os.environ.items() if not name.startswith("SIEVERL_")}


def stop(running: Sequence[Running]) -> None:
    """Ask processes to save and stop, and wait for them."""
    for one in running:
        if one.process.poll() is None:
            one.process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + KILL_AFTER_S
    for one in running:
        try:
            one.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(one.process.pid, signal.SIGKILL)
            one.process.wait()


def last_line(log: Path) -> str:
    """The last line of a log that is not empty."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    return next(filter(None, reversed(lines)), "")
