"""Run under torchrun by test_shared: `two_folders.py FOLDER WHERE_0 WHERE_1`, where each rank has its run directory.

Prints `rank: seen` or `rank: ` and the error.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from sieverl.distributed.world import init_distributed
from sieverl.errors import UsageError
from sieverl.training.shared import check_shared

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    world = init_distributed()
    try:
        check_shared(folder / sys.argv[2 + world.rank], world)
        found = "seen"
    except UsageError as error:
        found = str(error)
    (folder / f"{world.rank}.txt").write_text(found)
    torch.distributed.destroy_process_group()
