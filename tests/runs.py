"""Short runs of a tiny random model on one-digit sums, for tests of everything around them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from sieverl.engines.fake import FakeEngine
from sieverl.engines.protocol import Request
from sieverl.recipe import Recipe, build
from sieverl.run_dir import manifest
from sieverl.run_dir.metrics import EXEMPT, MetricsLog
from sieverl.training.loop import train
from sieverl.training.resume import Resume
from sieverl.training.setup import prepare
from sieverl.training.state import Run

GYM = {"seed": 900_000, "size": 60, "prompt": "metadata.expression", "min_terms": 2, "max_terms": 2, "max_digits": 1,
       "operators": ["+"], "allow_parentheses": False, "allow_negation": False, "whitespace": "no_space"}  # fmt: skip


NOT_EVALUATED: dict[str, Any] = {"evaluate__source": "", "evaluate__every": 0}


def recipe(run_dir: Path, **overrides: Any) -> Recipe:
    tables = {
        "steps": 3,
        "run_dir": str(run_dir),
        "threads": 1,
        "dtype": "float64",
        "data": {"source": "reasoning_gym:basic_arithmetic", "options": GYM, "check_gold": 4},
        "evaluate": {
            "source": "reasoning_gym:basic_arithmetic",
            "options": {**GYM, "seed": 2, "size": 12},
            "limit": 6,
            "samples": 2,
            "every": 1,
            "kl_prompts": 2,
        },
        "rollout": {"prompts": 4, "samples": 4, "max_tokens": 26},
        "train": {"lr": 1e-4},
        "verify": {"workers": 1},
        "checkpoint": {"every": 1, "keep": 9},
    }
    return build(tables, {k.replace("__", "."): v for k, v in overrides.items()})


def run_it(run_dir: Path, resume: Resume = "auto", **overrides: Any) -> Run:
    run = prepare(recipe(run_dir, **overrides), resume, say=lambda text: None)
    with run:
        train(run)
    return run


def comparable(run_dir: Path) -> list[dict[str, Any]]:
    """The rows of metrics without what differs between identical runs."""
    rows = MetricsLog(run_dir / "metrics.jsonl").rows()
    return [{k: v for k, v in row.items() if not k.startswith(EXEMPT)} for row in rows]


def same_run(one: Path, other: Path, relative: float = 1e-9) -> None:
    """The same responses and rewards, and metrics up to rounding."""
    import pytest  # which is not where this file is used with vLLM

    files = sorted(path.name for path in (one / "rollouts").iterdir())
    assert files == sorted(path.name for path in (other / "rollouts").iterdir())
    for name in files:
        columns = ["response", "reward", "correct"] + (["kept"] if name.startswith("step") else [])
        tables = [pq.read_table(folder / "rollouts" / name, columns=columns) for folder in (one, other)]
        assert tables[0].equals(tables[1]), name
    rows = [[metrics_of_the_work(row) for row in comparable(folder)] for folder in (one, other)]
    assert len(rows[0]) == len(rows[1])
    for mine, theirs in zip(*rows, strict=True):
        assert theirs == pytest.approx(mine, rel=relative, abs=relative, nan_ok=False)


def metrics_of_the_work(row: Mapping[str, float]) -> dict[str, float]:
    """A row without what tells how the ranks shared it."""
    return {name: value for name, value in row.items() if not name.startswith("ranks/")}


def newest_step(run_dir: Path) -> int:
    """The step of the newest whole checkpoint."""
    path = manifest.newest(run_dir / "checkpoints")
    assert path is not None
    return int(path.name.removeprefix(manifest.PREFIX))


def fake_run(tmp_path: Path, texts: list[str], **overrides: Any) -> Run:
    """A run whose engine answers with fixed texts, one a sample."""
    run = prepare(recipe(tmp_path / "f", **{**NOT_EVALUATED, **overrides}), say=lambda t: None)
    tokenizer = run.policy.tokenizer
    eos = run.prompts.sampling.eos[0]

    def respond(request: Request, sample: int) -> list[int]:
        return [*tokenizer(texts[sample % len(texts)], add_special_tokens=False)["input_ids"], eos]

    run.environment = replace(run.environment, engine=FakeEngine(respond))
    return run
