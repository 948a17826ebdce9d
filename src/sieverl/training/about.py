"""What a run was made with, for those who look at its directory later: `environment.json` and `tokenizer.json`."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import torch

from sieverl.files import storing, write_json, write_text
from sieverl.run_dir.versions import versions
from sieverl.training.state import Run
from sieverl.types import JsonObject

KEPT = 20  # starts of a run that are listed: the first one and the last ones


def describe(run: Run) -> None:
    """Add this start of the run to `environment.json`, and keep the tokenizer, by rank 0."""
    path = run.run_dir / "environment.json"
    starts = [start for start in _starts(path) if start["step"] < run.state.step]
    starts[1 : len(starts) - KEPT + 2] = []
    backend = getattr(run.environment.tokenizer, "backend_tokenizer", None)
    with storing("what the run is made with", run.run_dir):
        write_json(path, {"starts": [*starts, environment(run)]})
        if backend is not None:
            write_text(run.run_dir / "tokenizer.json", backend.to_str())


def _starts(path: Path) -> list[JsonObject]:
    """The starts that are listed; none where the file is missing or damaged."""
    try:
        starts = json.loads(path.read_text(encoding="utf-8"))["starts"]
        return [start for start in starts if isinstance(start["step"], int)]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return []


def environment(run: Run) -> JsonObject:
    """This start: the step that it goes on from, the versions, the machine, the model, the hashes of the prompts."""
    device = run.policy.device
    return {
        "step": run.state.step,
        "versions": versions(),
        "machine": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "ranks": run.world.size,
        "threads": torch.get_num_threads(),
        "model": run.policy.causal.config.model_type,
        "parameters": sum(x.numel() for x in run.policy.model.parameters()),
        "prompts": {"train": len(run.prompts.prompts), "heldout": len(run.heldout.prompts) if run.heldout else 0},
        "data": run.state.data,
    }
