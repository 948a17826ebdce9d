"""Small random models of many families, and shapes checked while tests run."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from beartype import BeartypeConf, beartype
from families import SIZES
from jaxtyping import install_import_hook

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float, too
CHECKED = (
    *("algorithms", "engines.kv_cache", "engines.sampling", "learner.assemble", "learner.batches"),
    *("model.logprobs", "model.packed"),
)
install_import_hook([f"sieverl.{name}" for name in CHECKED], "conftest.checked")

hypothesis.settings.register_profile("all", deadline=None)  # a busy machine fails no test
hypothesis.settings.load_profile("all")

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"
BASE = ROOT / "src" / "sieverl" / "assets" / "base"

# Files of minutes: each is run by one process, so that the last to begin would be waited for.
LONGEST = ("test_doc_blocks", "test_sharding", "test_fsdp", "test_crash", "test_vllm", "test_ray", "test_kills",
           "test_whole_loop", "test_packaging", "test_machines_page", "test_study_command", "test_bench_gpu",
           "test_view_browser", "test_eval_command", "test_report", "test_fuzz", "test_save")  # fmt: skip

# family -> what differs from SIZES
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {"head_dim": 8},
    "gemma3_text": {"head_dim": 8, "sliding_window": 6, "query_pre_attn_scalar": 8},
    "mistral": {"sliding_window": 6},
    "phi": {"num_key_value_heads": 4},
    "phi3": {},
    "granite": {"logits_scaling": 4.0},
    "gpt_neox": {},
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first; `make test` tells xdist to keep that order."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


@pytest.fixture
def random_model() -> Callable[..., Any]:
    """A function (family, dtype, seed) -> small random causal LM."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    def make(family: str = "qwen2", dtype: torch.dtype = torch.float32, seed: int = 0, **changes: Any) -> Any:
        torch.manual_seed(seed)
        config = AutoConfig.for_model(family, **{**SIZES, **FAMILIES[family], **changes})
        model = AutoModelForCausalLM.from_config(config).eval()
        with torch.no_grad():  # biases and norms are made at 0 and 1: a test must notice them
            for p in model.parameters():
                p.add_(torch.randn_like(p) * (0.3 if p.dim() == 1 else 0.1))
        return model.to(dtype)

    return make


@pytest.fixture
def shared_data() -> Path:
    if not SHARED.is_dir():
        pytest.skip(f"benchmark data are not part of the project; {SHARED} is missing")
    return SHARED


@pytest.fixture
def set_threads() -> Iterator[Callable[[int], None]]:
    """PyTorch's number of threads, to be set in a test and put back after it."""
    import torch

    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a whole run of three steps (`runs.recipe`); to be read only."""
    from runs import run_it

    run_dir = tmp_path_factory.mktemp("runs") / "one"
    run_it(run_dir)
    return run_dir


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory to work in, with 16 sums in data.jsonl and a recipe of one small step on them, r.toml."""
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"{a}+{b}", "answer": str(a + b)} for a in range(4) for b in range(4)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "r.toml").write_text(
        'steps = 1\n[data]\nsource = "data.jsonl"\n[rollout]\nprompts = 2\nsamples = 2\nmax_tokens = 8\n'
        "[verify]\nworkers = 1\n"
    )
    return tmp_path
