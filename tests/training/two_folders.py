"""Run under torchrun by test_shared: `two_folders.py FOLDER WHERE_0 WHERE_1`, where each rank has its run directory.

Writes RANK.txt, `seen` or the error, and RANK.prompts.txt, the error that other prompts on rank 1 give.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from sieverl.distributed.world import init_distributed
from sieverl.errors import DataError, UsageError
from sieverl.training.shared import check_same_prompts, check_shared
from sieverl.types import Prompt

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    world = init_distributed()
    try:
        check_shared(folder / sys.argv[2 + world.rank], world)
        found = "seen"
    except UsageError as error:
        found = str(error)
    check_same_prompts([Prompt(0, "1+1", {})], world)
    try:
        check_same_prompts([Prompt(0, f"1+{world.rank}", {})], world)
    except DataError as error:
        (folder / f"{world.rank}.prompts.txt").write_text(str(error))
    (folder / f"{world.rank}.txt").write_text(found)
    torch.distributed.destroy_process_group()
