"""Frozen weights in NF4 under LoRA: computed as their dequantised numbers are, sampled from as they are trained on."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import BASE
from runs import NOT_EVALUATED, comparable, recipe, run_it

from sieverl.errors import UsageError
from sieverl.model.load import load_policy, load_tokenizer
from sieverl.model.packed import Response, layout
from sieverl.model.policy import Policy
from sieverl.planning.memory import weights
from sieverl.planning.setting import setting_of
from sieverl.planning.shape import find_shape
from sieverl.recipe import build
from sieverl.recipe.tables import Lora
from sieverl.run_dir.metrics import MetricsLog

QLORA: dict[str, Any] = {"model__lora__rank": 4, "model__quantization": "nf4"}
LORA = Lora(rank=4)


def policies(dtype: str) -> tuple[Policy, Policy]:
    """The quantised policy, and a plain one whose weights are the dequantised numbers, with the same adapters."""
    bnb = pytest.importorskip("bitsandbytes")
    tokenizer = load_tokenizer(str(BASE))
    ours = load_policy(str(BASE), tokenizer, dtype, lora=LORA, quantization="nf4")
    plain = load_policy(str(BASE), tokenizer, dtype, lora=LORA)
    weights_of = dict(plain.model.named_parameters())
    with torch.no_grad():
        for name, module in ours.model.named_modules():
            if isinstance(module, bnb.nn.Linear4bit):
                state = module.weight.quant_state
                weights_of[f"{name}.weight"].copy_(bnb.functional.dequantize_4bit(module.weight.data, state))
        for name, p in plain.parameters.items():
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())) * 0.05)
            ours.parameters[name].copy_(p)
    return ours, plain


def logp(policy: Policy) -> torch.Tensor:
    packed = layout([Response([1, 2, 3], [4, 5, 6, 7]), Response([1, 2, 3], [8, 9])], policy.device)
    return policy.logp(policy.response_hidden(packed), packed.target_T, 1.0, False)[0]


def test_without_bitsandbytes_the_message_has_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(UsageError, match=r"pip install 'sieverl\[quantization\]'"):
        load_policy(str(BASE), load_tokenizer(str(BASE)), lora=LORA, quantization="nf4")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"model.lora.rank": 0}, "nothing is left to train; add model.lora.rank"),
        ({"distributed.strategy": "fsdp"}, "use distributed.strategy = 'replicated'"),
        ({"rollout.staleness": 1}, "use rollout.staleness = 0"),
        ({"rollout.engine": "transformers"}, "use rollout.engine = 'torch'"),
        ({"model.quantization": "int8"}, "model.quantization"),
    ],
)
def test_what_quantised_weights_cannot_do_is_refused(changes: dict[str, object], expected: str) -> None:
    with pytest.raises(UsageError, match=expected):
        build({"model": {"quantization": "nf4", "lora": {"rank": 4}}}, changes)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_log_probs_and_gradients_are_those_of_the_dequantised_weights(dtype: str) -> None:
    ours, plain = policies(dtype)
    exact = dtype == "float32"
    one, other = logp(ours), logp(plain)
    torch.testing.assert_close(one, other, atol=2e-5 if exact else 0.05, rtol=1e-4 if exact else 0.1)
    one.sum().backward()
    other.sum().backward()
    for name, p in plain.parameters.items():
        mine = ours.parameters[name].grad
        assert p.grad is not None
        assert mine is not None
        assert float((mine - p.grad).norm()) <= (1e-4 if dtype == "float32" else 0.1) * float(p.grad.norm()) + 1e-6, (
            name
        )


@pytest.mark.slow
def test_memory_is_what_the_plan_says_and_only_adapters_are_trained() -> None:
    pytest.importorskip("bitsandbytes")
    policy = load_policy(str(BASE), load_tokenizer(str(BASE)), lora=LORA, quantization="nf4")
    held = 0
    for p in policy.model.parameters():
        held += p.numel() * p.element_size()
        if state := getattr(p, "quant_state", None):
            held += sum(t.numel() * t.element_size() for t in (state.absmax, state.state2.absmax))
    planned = weights(find_shape(str(BASE)), setting_of(recipe(Path("r"), dtype="float32", **QLORA), 1))
    assert held == pytest.approx(planned, rel=0.01)
    assert all("lora_" in name for name in policy.parameters)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_samples_from_what_it_trains_and_resumes_to_the_bit(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    settings = {"dtype": "float32", "algorithm": "reinforce", "train__lr": 1e-2, **NOT_EVALUATED, **QLORA}
    run_it(tmp_path / "whole", steps=2, **settings)
    rows = MetricsLog(tmp_path / "whole" / "metrics.jsonl").rows()
    steps = [row for row in rows if "policy/engine_mismatch" in row]
    assert len(steps) == 2
    assert max(row["policy/engine_mismatch"] for row in steps) < 1e-5, "the engine samples from other weights"
    assert all(row["train/grad_norm"] > 0 for row in steps)
    saved = {file.name for file in (tmp_path / "whole" / "checkpoints" / "step-2").iterdir()}
    assert "adapter_model.safetensors" in saved
    assert "model.safetensors" not in saved
    run_it(tmp_path / "halves", steps=1, **settings)
    run_it(tmp_path / "halves", steps=2, **settings)
    assert comparable(tmp_path / "halves") == comparable(tmp_path / "whole")
