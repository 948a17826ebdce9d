"""Run under torchrun by test_world: what each collective gives on this rank, as JSON."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch

from sieverl.distributed.world import init_distributed

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    world = init_distributed()
    rank = world.rank
    found = {
        "rank": rank,
        "size": world.size,
        "all_reduce": world.all_reduce(torch.tensor([1.0, 2.0]) * (10 if rank else 1)).tolist(),
        "all_gather": world.all_gather({"rank": rank, "values": [1] * rank}),
        "sum_floats": world.sum_floats([1.0 + 1e-12 if rank else 2.0, 0]),  # of which float32 would lose a part
    }
    if rank == 0:
        time.sleep(0.3)
        (folder / "written").touch()
    world.barrier()
    found["after_barrier"] = (folder / "written").exists()
    (folder / f"{rank}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()
