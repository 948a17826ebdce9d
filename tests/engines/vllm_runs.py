"""Run by test_vllm with the Python of .venv-vllm: `vllm_runs.py WHAT FOLDER`, short runs with vLLM itself, to JSON.

Under torchrun for WHAT = sharded and shared.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from runs import NOT_EVALUATED, recipe
from torch import Tensor
from vllm_stand_in import stand_in

from sieverl.engines.vllm import VllmEngine
from sieverl.engines.vllm_client import Server
from sieverl.engines.vllm_transfer import NcclTransfer
from sieverl.errors import Alarm
from sieverl.run_dir.metrics import MetricsLog
from sieverl.training.loop import train
from sieverl.training.setup import prepare

SMALL = {
    "algorithm": "reinforce",  # keeps everything, so that every step makes an update
    "rollout__engine": "vllm",
    "rollout__kv_cache_gb": 0.25,
    "dtype": "float32",
    "train__lr": 3e-4,
}


def run(folder: Path, name: str, **changes: Any) -> list[dict[str, Any]]:
    """The rows of metrics of a run."""
    prepared = prepare(recipe(folder / name, **{**SMALL, **changes}), say=lambda text: None)
    with prepared:
        train(prepared)
    return MetricsLog(folder / name / "metrics.jsonl").rows()


def stale(folder: Path) -> dict[str, Any]:
    """What a run says whose engine claims to take new weights and keeps its first ones."""
    prepared = prepare(recipe(folder / "stale", **{**SMALL, **NOT_EVALUATED}), say=lambda text: None)

    first = VllmEngine.load

    def load(engine: VllmEngine, weights: Mapping[str, Tensor], version: int) -> None:
        if engine.version < 0:
            first(engine, weights, version)
        engine.version = version

    VllmEngine.load = load  # type: ignore[method-assign, assignment]
    try:
        with prepared:
            train(prepared)
    except Alarm as alarm:
        return {"step": prepared.state.step, "said": str(alarm)}
    return {"step": -1, "said": ""}


def alone(folder: Path) -> dict[str, Any]:
    """Ten updates, the same run resumed, LoRA with a stop string, sampling ahead, and an engine frozen on purpose."""
    function = torch.set_num_threads
    return {
        "ten": run(folder, "ten", steps=10, evaluate__every=10, evaluate__limit=2),
        "resumed": run(folder, "ten", steps=11, evaluate__every=10, evaluate__limit=2),
        "threads as they were": torch.set_num_threads is function,
        "lora": run(folder, "lora", steps=3, model__lora__rank=4, rollout__stop='["box"]', **NOT_EVALUATED),
        "ahead": run(folder, "ahead", steps=3, rollout__staleness=1, **NOT_EVALUATED),
        "stale": stale(folder),
    }


def sharded(folder: Path) -> dict[str, Any]:
    """A model that is sharded over the ranks, an engine on each of them."""
    return {"rows": run(folder, "sharded", steps=2, distributed__strategy="fsdp")}


def shared(folder: Path) -> dict[str, Any]:
    """A model on each rank, one engine for all."""
    return {"rows": run(folder, "shared", steps=2, rollout__tensor_parallel_size=2)}


def nccl(folder: Path) -> dict[str, Any]:
    """What vLLM's own sender asks of a server and broadcasts; the broadcast itself, which needs GPUs, is replaced."""
    import vllm.distributed.weight_transfer.nccl_engine as sender

    sent: list[tuple[str, str, list[float]]] = []

    def broadcast(iterator: Iterable[tuple[str, Tensor]], **given: Any) -> None:
        sent.extend((name, str(x.dtype), x.flatten().tolist()) for name, x in iterator)

    sender.open_trainer_endpoint = lambda info: object()
    sender.packed_nccl_broadcast_producer = broadcast
    weights = {"a": torch.tensor([[1.0, 2.0]]), "b": torch.tensor([3.0])}
    with stand_in("m") as server:
        server.answers["/get_world_size"] = {"world_size": 2}
        steps = ("init_weight_transfer_engine", "start_weight_update", "update_weights", "finish_weight_update")
        server.answers |= {f"/{step}": {} for step in steps}
        for rank in (1, 0):  # only the first one sends
            transfer = NcclTransfer(rank, torch.bfloat16, 5.0)
            for version in ("0", "1"):
                transfer([Server(server.url, 5.0)], lambda: iter(weights.items()), version)
        return {"asked": server.asked, "sent": sent}


if __name__ == "__main__":
    what, folder = sys.argv[1], Path(sys.argv[2])
    found = {"alone": alone, "sharded": sharded, "shared": shared, "nccl": nccl}[what](folder)
    if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
        (folder / f"{what}.json").write_text(json.dumps(found))
