"""The batch of a step whose update was not finite, saved for a look at it: `inspect/step-NNNNNN.safetensors`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from sieverl.files import atomic_write, write_json
from sieverl.learner.batches import MiniBatch, Sample
from sieverl.rollout.collect import Batch
from sieverl.run_dir.metrics import nonfinite
from sieverl.training.state import Run
from sieverl.types import JsonObject, Metrics

MOST = 3  # files in a run directory
PER_TOKEN = ("old_logp", "ref_logp", "value", "token_advantage", "value_target")  # where the algorithm has them


def inspection_file(run: Run, step: int) -> Path:
    """The tensors of a step; the prompts and responses they belong to are in a JSON file beside it."""
    return run.run_dir / "inspect" / f"step-{step:06d}.safetensors"


def save_for_inspection(run: Run, batch: Batch, batches: Sequence[MiniBatch], metrics: Metrics) -> None:
    """Save what the learner computed in this step if something in it was not finite. Every rank must call this."""
    if not nonfinite(metrics):
        return
    file = inspection_file(run, run.state.step)
    others = [path for path in file.parent.glob("*.safetensors") if path != file]
    if run.world.all_gather(len(others))[0] >= MOST:  # rank 0 writes, so it knows
        return
    samples = [s for part in batches for s in part.samples]
    tables = [_table(s, number) | _ids(run, batch, s) for number, part in enumerate(batches) for s in part.samples]
    for table, logp_T in zip(tables, run.learner.logp(samples), strict=True):
        table["per_token"]["logp"] = logp_T.tolist()
    rows = list(chain.from_iterable(run.world.all_gather(tables)))
    if run.world.rank == 0:
        counts = nonfinite(metrics)
        atomic_write(file, lambda path: save_file(_tensors(rows), path))
        about = [{k: v for k, v in row.items() if k != "per_token"} for row in rows]
        write_json(file.with_suffix(".json"), {"step": run.state.step, "nonfinite": counts, "responses": about})


def _ids(run: Run, batch: Batch, sample: Sample) -> JsonObject:
    """Where the response is in `rollouts/`, and the id of its prompt."""
    group_R = batch.responses.prompt_R
    group = int(group_R[sample.row])
    number = int((group_R[: sample.row] == group).sum())
    return {"group": group, "sample": number, "prompt_id": run.prompts.prompts[batch.prompt_of_group[group]].id}


def _table(sample: Sample, minibatch: int) -> JsonObject:
    """One response: its sizes, and a list for each number that its tokens have."""
    found = {name: value.tolist() for name in PER_TOKEN if (value := getattr(sample, name)) is not None}
    lists = {"tokens": list(sample.response_tokens), "engine_logp": list(sample.engine_logp), **found}
    return {
        "prompt_tokens": list(sample.prompt_tokens),
        "length": len(sample.response_tokens),
        "minibatch": minibatch,
        "advantage": str(sample.advantage),  # JSON has no NaN
        "kept": sample.kept,
        "per_token": lists,
    }


def _tensors(rows: Sequence[JsonObject]) -> dict[str, Tensor]:
    """The tokens of all responses one after the other, and `advantage` for each response."""
    names = sorted(set(chain.from_iterable(row["per_token"] for row in rows)))
    whole = [name for name in names if all(name in row["per_token"] for row in rows)]
    out = {name: [x for row in rows for x in row["per_token"][name]] for name in whole}
    tensors = {n: torch.tensor(x, dtype=torch.int64 if n == "tokens" else torch.float64) for n, x in out.items()}
    return tensors | {"advantage": torch.tensor([float(row["advantage"]) for row in rows], dtype=torch.float64)}
