"""The example scripts and configurations of other trainers, and local data that stands in for theirs."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from conftest import ROOT

FIXTURES = ROOT / "tests" / "fixtures" / "elsewhere"
TINY = {"model.path": "", "model.lora.rank": 0, "dtype": "float32", "rollout.engine": "torch", "data.system": None,
        "data.template": "plain", "rollout.max_tokens": 16, "rollout.prompts": 2, "train.minibatches": 1, "steps": 1,
        "distributed.activation_checkpointing": False, "distributed.strategy": "replicated", "verify.workers": 1,
        "threads": 1}  # fmt: skip


def sums(path: Path, rows: int = 12) -> Path:
    """One-digit sums with their worked answer and a level, as JSONL."""
    lines = [
        {"question": f"{a}+{a + 1}", "answer": f"so #### {2 * a + 1}" if path.stem == "worked" else str(2 * a + 1),
         "level": "easy" if a % 2 else "hard"}
        for a in range(1, rows + 1)
    ]  # fmt: skip
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def of_verl(path: Path, rows: int = 12) -> Path:
    """The same in verl's Parquet."""
    table = [
        {"data_source": "openai/gsm8k", "prompt": [{"role": "user", "content": f"{a}+{a + 1}"}], "ability": "math",
         "reward_model": {"style": "rule", "ground_truth": str(2 * a + 1)}, "extra_info": {"index": a}}
        for a in range(1, rows + 1)
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(table), path)
    return path
