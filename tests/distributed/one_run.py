"""Run under torchrun (or alone) by test_fsdp: `one_run.py FOLDER STEPS KEY=VALUE ...`, a short run for each algorithm.

The algorithms are given as `algorithms=a,b`; each has a run directory of its name in FOLDER.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from runs import recipe

from sieverl.training.loop import train
from sieverl.training.setup import prepare

if __name__ == "__main__":
    folder, steps, *options = sys.argv[1:]
    changes = dict(option.split("=", 1) for option in options)
    for name in changes.pop("algorithms").split(","):
        run = prepare(recipe(Path(folder) / name, algorithm=name, steps=int(steps), **changes), say=lambda text: None)
        with run:
            train(run)
        if run.policy.sharded:
            held = sum(p.to_local().numel() for p in run.policy.parameters.values())  # type: ignore[attr-defined]
            assert held < 0.51 * sum(p.numel() for p in run.policy.parameters.values()), "a rank holds its half"
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
