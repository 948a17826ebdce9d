"""Run under torchrun by test_save: `save_fails.py FOLDER RANK HOW KEY=VALUE ...`, a run in which RANK cannot save.

With HOW = watcher it fails before it writes; with limit the system refuses to write a large file.
"""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

from runs import recipe

from sieverl import files
from sieverl.training.loop import train
from sieverl.training.setup import prepare

if __name__ == "__main__":
    folder, rank, how, *options = sys.argv[1:]
    changes = dict(option.split("=", 1) for option in options)
    run = prepare(recipe(Path(folder) / "r", steps=2, **changes), say=lambda text: None)

    def full(operation: str, paths: tuple[Path, ...]) -> None:
        if operation == "fill" and ".step-2.tmp" in str(paths[0]):
            if how == "watcher":
                raise OSError(28, "No space left on device")
            resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))

    if os.environ["RANK"] == rank:
        files.watchers.append(full)
    with run:
        train(run)
