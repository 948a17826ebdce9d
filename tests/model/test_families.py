"""Every family is correct to rounding in learner and engine, or is refused by name.

Sequences are several times longer than windows and original lengths (16), prompts have different lengths, norms and
biases are not 1 and 0. The reference is transformers' own model with its eager attention, one response at a time.
"""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from conftest import BASE, ROOT
from families import FAMILIES, LONG, SIZES, make, table
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar

from sieverl import cli
from sieverl.engines.builtin import BuiltinEngine
from sieverl.engines.protocol import Request, SamplingParams
from sieverl.model import families
from sieverl.model.load import check_family
from sieverl.model.packed import Response, layout
from sieverl.model.policy import Policy
from sieverl.run_dir.metrics import MetricsLog

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the libraries
QUICK = ("mistral window", "qwen2_moe window", "deepseek_v3", "qwen3_next", "falcon_h1")
# the findings of an audit: which families were silently wrong or failed with a traceback
AUDIT = {
    "M1": ["mistral window"],
    "M2": ["ministral3"],
    "M3": ["qwen2_moe window", "phimoe window"],
    "M18": ["gemma2"],
    "F1": ["phi", "gptj", "codegen", "xglm"],
    "F2": ["qwen3_next", "qwen3_5", "qwen3_5_moe", "olmo_hybrid", "mamba2", "bamba", "zamba2", "nemotron_h", "mpt"],
    "F2 too": ["granitemoehybrid", "llama4_text"],
    "F3": ["deepseek_v2", "deepseek_v3", "glm4_moe_lite", "minicpm3"],
    "F4": ["mamba", "falcon_h1", "jamba", "lfm2", "lfm2_moe", "minimax"],
    "F5": ["doge"],
}
ROW = {family: row for row, names in AUDIT.items() for family in names}
LABEL = {name: f"{ROW[name]} {name}" if name in ROW else name for name in FAMILIES}
CASES = [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow, id=LABEL[n]) for n in FAMILIES]
DRAWS = np.random.default_rng(0)
PROMPTS = [DRAWS.integers(3, 97, n).tolist() for n in (11, 4, 11)]
SAMPLES = [(p, DRAWS.integers(3, 97, n).tolist()) for p in PROMPTS[:2] for n in (1, 12, LONG, 30, 2)]


@pytest.fixture(autouse=True)
def one_thread(set_threads):
    """Models of this size take many times longer with threads that wait for each other."""
    set_threads(1)


def literal(name: str, dtype: torch.dtype = torch.float32):
    """The family's own model as transformers computes it; with eager attention where it has another."""
    model = make(name, dtype)
    if model.config._attn_implementation == "sdpa":
        model.set_attn_implementation("eager")
    return model


def logp_alone(model, prompt, response):
    """Log-probs of a response, [T], by one plain forward of the whole sequence."""
    logits = model(torch.tensor([[*prompt, *response]])).logits[0, len(prompt) - 1 : -1].float()
    return logits.log_softmax(-1).gather(1, torch.tensor(response)[:, None])[:, 0]


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in model.parameters()])


def logp_learner(policy):
    packed = layout([Response(p, r) for p, r in SAMPLES], torch.device("cpu"))
    return policy.logp(policy.response_hidden(packed), packed.target_T, 1.0, False)[0]


@pytest.mark.parametrize("name", CASES)
def test_learner(name):
    """Log-probs and gradients of all samples together are those of each sample alone."""
    plain, policy = literal(name), Policy(make(name), None)
    theirs_T = torch.cat([logp_alone(plain, p, r) for p, r in SAMPLES])
    weight_T = torch.randn(len(theirs_T), generator=torch.Generator().manual_seed(0))
    expected = gradients(plain, (theirs_T * weight_T).sum())
    ours_T = logp_learner(policy)
    torch.testing.assert_close(ours_T, theirs_T, rtol=0, atol=1e-5)
    found = gradients(policy.causal, (ours_T * weight_T).sum())
    assert float((found - expected).norm() / expected.norm()) < 1e-5


@pytest.mark.parametrize("name", CASES)
def test_engine(name):
    """Log-probs of sampled tokens are the plain model's; greedy tokens are those of `generate` with left padding."""
    plain, engine = literal(name), BuiltinEngine(Policy(make(name), None))
    requests = [Request(i, p, 2, group=i) for i, p in enumerate(PROMPTS)]
    with torch.no_grad():
        for rollout in engine.sample(requests, SamplingParams(40, (96, 95, 94))):
            expected = logp_alone(plain, PROMPTS[rollout.prompt_id], rollout.tokens).numpy()
            np.testing.assert_allclose(rollout.logp, expected, rtol=0, atol=1e-5)
    greedy = engine.sample([Request(i, p, 1) for i, p in enumerate(PROMPTS)], SamplingParams(24, (2,), temperature=0.0))
    for rollout, tokens in zip(greedy, generated(plain, 24), strict=True):
        assert rollout.tokens == tokens


def generated(model, longest):
    """Greedy responses of `generate` to all prompts at once, padded to the left."""
    width = max(map(len, PROMPTS))
    ids = torch.tensor([[0] * (width - len(p)) + p for p in PROMPTS])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in PROMPTS])
    settings = {"do_sample": False, "max_new_tokens": longest, "eos_token_id": 2, "pad_token_id": 0}
    with torch.no_grad():
        out = model.generate(ids, attention_mask=mask, **settings)[:, width:].tolist()
    return [row[: row.index(2) + 1] if 2 in row else row for row in out]


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_bfloat16(name):
    """Learner and engine compute in bfloat16, near the exact log-probs; gradients reach float32 weights."""
    plain, policy = literal(name), Policy(make(name), None, torch.bfloat16)
    with torch.no_grad():
        exact_T = torch.cat([logp_alone(plain, p, r) for p, r in SAMPLES])
    ours_T = logp_learner(policy)
    assert float((ours_T.detach() - exact_T).abs().mean()) < 0.15
    assert torch.isfinite(gradients(policy.causal, ours_T.sum())).all()
    requests = [Request(i, p, 2, group=i) for i, p in enumerate(PROMPTS)]
    for rollout in BuiltinEngine(policy).sample(requests, SamplingParams(30, (96,))):
        with torch.no_grad():
            exact = logp_alone(plain, PROMPTS[rollout.prompt_id], rollout.tokens).numpy()
        assert np.abs(np.array(rollout.logp) - exact).mean() < 0.3


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_short_response_to_a_long_prompt_and_a_shared_prefix(name):
    """Edge cases: a response of one token, a prompt of one token, a single response."""
    plain, engine = literal(name), BuiltinEngine(Policy(make(name), None))
    prompts = [[7], PROMPTS[0] * 4]
    rollouts = engine.sample([Request(i, p, 1, group=i) for i, p in enumerate(prompts)], SamplingParams(3, (96,)))
    samples = [Response(prompts[r.prompt_id], r.tokens) for r in rollouts]
    packed = layout(samples, torch.device("cpu"))
    with torch.no_grad():
        expected = torch.cat([logp_alone(plain, s.prompt_tokens, list(s.response_tokens)) for s in samples])
        ours_T, _ = engine.policy.logp(engine.policy.response_hidden(packed), packed.target_T, 1.0, False)
    torch.testing.assert_close(ours_T, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(torch.tensor([x for r in rollouts for x in r.logp]), expected, rtol=0, atol=1e-5)


# --- what a configuration says ----------------------------------------------------------------------


def config(name: str, **changes):
    kind, differs = FAMILIES[name]
    return AutoConfig.for_model(kind, **{**SIZES, **differs, **changes})


def test_M1_a_window_is_never_fused_however_long_it_is():
    assert families.ways(config("mistral")).decoding == "fused"
    assert families.ways(config("mistral", sliding_window=4096)).decoding == "batched"
    assert "sliding window" in families.ways(config("mistral window")).why
    assert families.ways(config("qwen2 window")).decoding == "batched"


def test_M2_scaled_queries_are_not_fused():
    assert families.ways(config("ministral3")).decoding == "batched"


def test_M3_a_window_in_the_mask_alone_is_not_packed():
    assert families.ways(config("qwen2_moe")).packed
    assert not families.ways(config("qwen2_moe window")).packed
    assert not families.ways(config("phimoe window")).packed


def test_M4_sequences_beyond_the_short_rope_are_refused_with_the_arithmetic():
    limit, why = families.longest(config("phi3 longrope"))
    assert limit == 128
    assert "longrope" in why
    assert families.longest(config("phi3"))[0] == 256


def test_F5_sequences_beyond_the_window_of_keys_are_refused():
    assert families.longest(config("doge", keep_window_size=8))[0] == 8
    assert families.longest(config("deepseek_v32", index_topk=8))[0] == 8


def test_an_unknown_kind_of_layer_or_family_goes_the_plain_way():
    assert (
        families.ways(config("qwen2", layer_types=["full_attention", "chunked_attention"])).decoding
        == "transformers_cache"
    )
    assert families.ways(config("llama4_text")) == families.Ways(
        False, "transformers_cache", "no faster way is known to be correct for llama4_text"
    )


def test_a_trial_past_the_window_notices_a_window_in_the_mask(monkeypatch):
    """The second check: if the configuration were read wrongly, packing would still be turned off."""
    monkeypatch.setattr(families, "MASKED_WINDOW", frozenset())
    policy = Policy(make("qwen2_moe window"), None)
    assert policy.ways.packed
    assert not policy.can_pack
    assert getattr(policy.causal.config, "sliding_window", None) == 16, "the trial's narrow window is gone"


def test_a_family_whose_backward_fails_is_refused_by_name():
    with pytest.raises(ValueError, match="rwkv is not supported: its backward in transformers fails"):
        families.check(AutoConfig.for_model("rwkv"), "m")


def test_mixtures_of_experts_in_float64():
    policy = Policy(make("qwen3_moe", torch.float64), None)
    logits = policy.causal(torch.tensor([[3, 4, 5]])).logits
    assert logits.dtype == torch.float64


def test_the_page_of_models_is_what_this_file_tests():
    told = (ROOT / "docs" / "models.md").read_text()
    assert table() in told, "put what `python tests/families.py` prints into docs/models.md"


def test_every_listed_family_is_tested():
    tested = {kind for kind, _ in FAMILIES.values()}
    assert tested >= families.BATCHED | families.RECOMPUTE
    assert len(tested) >= 60
    assert all(hasattr(AutoModelForCausalLM, "from_config") and kind for kind in tested)


# --- through the command ----------------------------------------------------------------------------


@pytest.fixture
def directory(tmp_path, monkeypatch):
    """A function that writes a small model with the shipped tokenizer and a recipe for it; the command's exit code."""
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"{a}+{b}", "answer": str(a + b)} for a in range(4) for b in range(4)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "r.toml").write_text(
        'steps = 1\nalgorithm = "reinforce"\n[model]\npath = "m"\n[data]\nsource = "data.jsonl"\n'
        '[rollout]\nprompts = 2\nsamples = 2\nmax_tokens = 8\n[verify]\nname = "number"\n'
    )

    def run(name: str, *options: str) -> int:
        disable_progress_bar()
        if not (tmp_path / "m").exists():
            vocabulary = json.loads((BASE / "config.json").read_text())["vocab_size"]
            make(name, vocab_size=vocabulary).save_pretrained(tmp_path / "m")
            for file in BASE.glob("*token*"):
                shutil.copy(file, tmp_path / "m")
        return cli.main(["train", "r.toml", "--run-dir", "run", *options])

    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["qwen3_next", "falcon_h1", "nemotron_h", "lfm2", "mamba2", "deepseek_v3", "llama4_text"]
)
def test_what_people_train_next_trains_saves_and_goes_on(directory, tmp_path, capsys, name):
    assert directory(name) == 0, capsys.readouterr().err
    assert directory(name, "--steps", "2") == 0, capsys.readouterr().err
    rows = MetricsLog(tmp_path / "run" / "metrics.jsonl").rows()
    assert [row["step"] for row in rows] == [0, 1, 2]
    assert max(row["policy/engine_mismatch"] for row in rows[1:]) < 1e-4
    assert f"{name}: learner: padded sequences" in capsys.readouterr().err or name == "deepseek_v3"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen3_next", "mixtral", "gemma2"])
def test_adapters_train_in_families_of_every_kind(directory, tmp_path, capsys, name):
    assert directory(name, "--model.lora.rank", "2") == 0, capsys.readouterr().err
    (_, row) = MetricsLog(tmp_path / "run" / "metrics.jsonl").rows()
    assert row["policy/engine_mismatch"] < 1e-4


def test_M4_the_command_refuses_a_sequence_beyond_the_short_rope(directory, tmp_path, capsys):
    assert directory("phi3 longrope", "--rollout.max_tokens", "130") == 2
    err = capsys.readouterr().err
    assert "but the model takes 128 (longrope: the length of its short rotary factors" in err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_M11_adapters_on_the_output_layer_are_refused(directory, tmp_path, capsys):
    assert directory("llama", "--model.lora.rank", "2", "--model.lora.targets", "lm_head,q_proj") == 2
    err = capsys.readouterr().err
    assert "the LoRA adapters are on the output layer" in err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_adapters_on_layers_that_are_not_there_are_refused_in_one_line(directory, tmp_path, capsys):
    assert directory("llama", "--model.lora.rank", "2", "--model.lora.targets", "nope") == 2
    err = capsys.readouterr().err
    assert err.startswith("sieverl: model.lora.targets = 'nope' does not fit LlamaForCausalLM")
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_the_doctor_says_how_a_model_is_computed_and_why(directory, capsys):
    assert directory("mistral window") == 0
    assert "no fused decode step for mistral with a sliding window" in capsys.readouterr().err
    assert cli.main(["doctor", "--model", "m"]) == 0
    out = capsys.readouterr().out
    assert "packed tokens" in out
    assert "no fused decode step for mistral with a sliding" in out
    assert cli.main(["doctor", "--model", "nowhere"]) == 3


# --- families of text and pictures, trained on text ------------------------------------------------

PICTURES = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
}


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "text"), [("gemma3", "gemma3"), ("gemma4", "gemma4"), ("llama4", "llama4_text")])
def test_models_of_text_and_pictures_are_right_on_text(kind, text):
    inner = {**SIZES, **FAMILIES[text][1], "model_type": FAMILIES[text][0]}
    torch.manual_seed(0)
    settings = AutoConfig.for_model(kind, text_config=inner, vision_config=PICTURES)
    policy = Policy(AutoModelForCausalLM.from_config(settings).eval(), None)
    check_family(policy, kind)
    rollouts = BuiltinEngine(policy).sample(
        [Request(i, p, 2, group=i) for i, p in enumerate(PROMPTS)], SamplingParams(30, (96,))
    )
    samples = [Response(PROMPTS[r.prompt_id], r.tokens) for r in rollouts]
    packed = layout(samples, torch.device("cpu"))
    with torch.no_grad():
        expected = torch.cat([logp_alone(policy.causal, s.prompt_tokens, list(s.response_tokens)) for s in samples])
        ours_T, _ = policy.logp(policy.response_hidden(packed), packed.target_T, 1.0, False)
    torch.testing.assert_close(ours_T, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(torch.tensor([x for r in rollouts for x in r.logp]), expected, rtol=0, atol=1e-5)
