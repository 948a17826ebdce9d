"""`make bench-gpu`: its arithmetic by hand, its page, and the whole of it at toy size."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT

from bench import gpu, gpu_report
from bench.arithmetic import adapters, layer_weights, parameters, rollout_bytes, update_bytes, update_flops
from bench.ours_learner import make_update
from bench.peers.venv import NotInstalledError
from bench.workloads import QWEN_05B, QWEN_7B, QWEN_15B, TINY, TOY, Workload, even
from sieverl.model.load import new_adapters

SMALL = Workload("small", 8, 4, even, 10, 4, 6, layers=2, heads=2, kv_heads=1)


def test_parameters_are_those_of_the_published_models() -> None:
    assert [round(parameters(w) / 1e9, 3) for w in (QWEN_05B, QWEN_15B, QWEN_7B)] == [0.494, 1.544, 7.616]


def test_parameters_are_those_of_the_model() -> None:
    for w in (TINY, SMALL):
        model = make_update(w, "float32", 512, 0).learner.policy.model
        assert sum(p.numel() for p in model.parameters()) == parameters(w)
        adapted = new_adapters(model, 4, 8.0, "all-linear")
        assert sum(p.numel() for p in adapted.parameters() if p.requires_grad) == adapters(w, 4)


def test_flops_by_hand() -> None:
    """Two layers of 4x4, 4x2, 4x2, 4x4, 4x6, 4x6, 6x4: 120 weights each; an output layer of 40."""
    assert layer_weights(SMALL) == 240
    # a prompt of 3 with responses of 2 and 4: 3 + 1 + 3 tokens, 6 predicted;
    # pairs: 6 of the prompt, 4 of the first response, 4 + 5 + 6 of the second
    products, pairs = 240 * 7 + 40 * 6, 6 + 4 + 15
    assert update_flops(SMALL, [(3, [2, 4])]) == 6 * products + 12 * 2 * 4 * pairs
    # two adapters of rank 1 on each matrix: (4+4 + 4+2 + 4+2 + 4+4 + 4+6 + 4+6 + 6+4) * 2 layers
    assert adapters(SMALL, 1) == 116
    assert update_flops(SMALL, [(3, [2, 4])], 1) == 4 * products + 6 * 116 * 7 + 12 * 2 * 4 * pairs


def test_flops_of_an_update_are_those_of_what_is_kept() -> None:
    update = make_update(SMALL, "float32", 512, 0)
    whole, part = update.run(keep=1.0), update.run(keep=0.25)
    groups: dict[int, tuple[int, list[int]]] = {}
    for row in update.rollouts.values():
        groups.setdefault(row.group, (len(row.prompt_tokens), []))[1].append(len(row.tokens))
    assert whole["flops"] == update_flops(SMALL, list(groups.values()))
    assert 0.1 * whole["flops"] < part["flops"] < 0.9 * whole["flops"]


def test_what_does_not_fit_is_left_out_with_the_arithmetic(tmp_path: Path) -> None:
    needed, arithmetic = update_bytes(QWEN_7B, 0, "bfloat16")
    assert needed == 7_615_616_512 * 18
    place = gpu.Place("cuda", "a GPU", 80e9, "bfloat16", (), (), (), gpu.vllm_of_make, gpu.vllm_of_make, "")
    bench = gpu.Bench(place, QWEN_7B, tmp_path, 1, False)
    row = gpu.measured({"kind": "learner"}, gpu.utilisation, bench, 0)
    assert row == {"kind": "learner", "left_out": f"does not fit 80.0 GB: {arithmetic}"}
    assert "7.62B trained x 16 bytes" in arithmetic
    assert "= 137.1 GB" in arithmetic
    assert update_bytes(QWEN_7B, gpu.LORA_RANK, "bfloat16")[0] < 80e9
    assert rollout_bytes(QWEN_7B, "bfloat16")[0] < 80e9


def test_a_process_that_ends_is_left_out_with_the_last_error_of_its_log() -> None:
    with (
        pytest.raises(gpu.LeftOutError, match=r"^ended with exit code 0$"),
        gpu.process("test-ended", Path(sys.executable), "bench.rewards") as other,
    ):
        gpu.step(other)
    failure = "['python'] ended with exit code 1; its messages are above."
    log = "loading\ntorch.OutOfMemoryError: CUDA out of memory\nERROR: bye"
    assert gpu.reason(failure, log) == "torch.OutOfMemoryError: CUDA out of memory"
    assert gpu.reason("CUDA out of memory", "") == "CUDA out of memory", "what it answered itself"


def lines(device: str, place: str, speed: float) -> list[dict[str, Any]]:
    about = {"machine": {"cpu": "a CPU", "cores": 2}, "versions": {"torch": "2"}, "date": "2026-01-01"}
    found = {"tokens_per_second": speed, "mean_length": 9.0, "peak_mb": 10.0}
    key = {"device": device, "place": place, "kind": "rollout", "configuration": "toy"}
    return [{**key, "engine": "torch", **found, **about}, {**key, "engine": "vllm", "left_out": "not there", **about}]


def test_a_cpu_is_never_written_over_a_gpu(tmp_path: Path) -> None:
    results, page = tmp_path / "r.jsonl", tmp_path / "p.md"
    gpu_report.append(lines("cpu", "CPU, toy size", 5), results)
    gpu_report.write(results, page)
    assert "No GPU has been measured yet" in page.read_text()
    gpu_report.append(lines("cuda", "A Card", 7777), results)
    gpu_report.append(lines("cpu", "CPU, toy size", 6), results)
    gpu_report.write(results, page)
    text = page.read_text()
    assert "No GPU has been measured yet" not in text
    assert text.index("## A Card") < text.index("| toy | torch | 7777 |") < text.index("## CPU, toy size")
    assert "| toy | torch | 6 |" in text
    assert "| toy | torch | 5 |" not in text, "the newest line counts"
    assert text.count("- toy, vllm: not there.") == 2


def test_the_page_is_that_of_the_results() -> None:
    assert gpu_report.PAGE.read_text() == gpu_report.page(gpu_report.newest())


@pytest.mark.slow
@pytest.mark.timeout(900)  # half a dozen processes that each load PyTorch
@pytest.mark.skipif(torch.cuda.is_available(), reason="the toy size is for a CPU")
def test_toy_size_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every engine and every side has a row: numbers, or why it is left out. The peers cannot be installed."""

    def missing(install: bool) -> Path:
        raise NotInstalledError("not for this platform")

    place = replace(gpu.this_place(), vllm=missing, trl=missing)
    monkeypatch.setattr(gpu, "this_place", lambda: place)
    results, page = tmp_path / "r.jsonl", tmp_path / "p.md"
    options = ["--repeats", "1", "--no-tests", "--results", str(results), "--page", str(page)]
    assert gpu.main(options) == 0
    rows = [json.loads(line) for line in results.read_text().splitlines()]
    engines = {row["engine"]: row for row in rows if row["kind"] == "rollout"}
    assert set(engines) == set(gpu.ENGINES)
    assert find_spec("vllm") or engines["vllm"]["left_out"] == "not for this platform"
    for name in ("torch", "transformers"):
        assert engines[name]["tokens_per_second"] > 0
    (learner,) = (row for row in rows if row["kind"] == "learner")
    assert 0 < learner["everything"]["utilisation"] < 1
    sides = {row["side"]: row for row in rows if row["kind"] == "rl_step"}
    assert "SieveRL, torch" in sides
    assert sides["TRL, generate"]["left_out"] == "not for this platform"
    assert sides["SieveRL, torch"]["selected"]["kept"] <= 1
    text = " ".join(page.read_text().split())
    assert "measures nothing" in text
    for row in rows:
        assert row["device"] == "cpu"
        assert row["configuration"] == TOY.name
        assert f"| {row['configuration']} | " in text
        assert f": {row.get('left_out', '')}" in text
    assert not (ROOT / ".bench/models" / TOY.name).exists()
