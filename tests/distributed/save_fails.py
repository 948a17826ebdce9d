"""Run under torchrun by test_save: `save_fails.py FOLDER RANK`, a short run in which RANK cannot write a checkpoint."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from runs import recipe

from sieverl import files
from sieverl.training.loop import train
from sieverl.training.setup import prepare

if __name__ == "__main__":
    folder, rank = Path(sys.argv[1]), sys.argv[2]
    run = prepare(recipe(folder / "r", steps=2), say=lambda text: None)

    def full(operation: str, paths: tuple[Path, ...]) -> None:
        if operation == "fill" and ".step-2.tmp" in str(paths[0]):
            raise OSError(28, "No space left on device")

    if os.environ["RANK"] == rank:
        files.watchers.append(full)
    with run:
        train(run)
