"""Nothing is trained or measured that was not loaded: damaged model files are one line, and leave nothing behind."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import pytest
import torch
from conftest import BASE
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sieverl import assets, cli
from sieverl.files import write_json
from sieverl.run_dir import manifest

EVAL = ("--benchmark", "demo", "--limit", "2", "--greedy", "--max-tokens", "4")


@pytest.fixture
def work(work):
    """That of conftest, with the shipped model as `m` in the recipe."""
    with (work / "r.toml").open("a") as file:
        file.write('[model]\npath = "m"\n')
    shutil.copytree(BASE, "m")
    return work


@pytest.fixture
def sieverl(capfd):
    """A function (*arguments) -> exit code and what reached the console's error stream, of libraries too."""

    def run(*args):
        capfd.readouterr()
        code = cli.main([str(a) for a in args])
        return code, capfd.readouterr().err

    return run


def one_line(found, code, *expected):
    got, err = found
    assert got == code, err
    assert err.startswith("sieverl: "), err
    assert len(err.splitlines()) == 1, err
    for text in expected:
        assert text in err


def edit(file, **changes):
    """Change keys of a JSON file; None takes a key out."""
    path = Path(file)
    table = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in table.items() if v is not None}))


def reweigh(change, file="m/model.safetensors"):
    """Rewrite a weights file with what `change` makes of its tensors."""
    tensors = load_file(file)
    save_file(change(tensors) or tensors, file, {"format": "pt"})


def without(name):
    return lambda: reweigh(lambda tensors: {k: v for k, v in tensors.items() if k != name})


def renamed(old, new):
    return lambda: reweigh(lambda tensors: {k.replace(old, new): v for k, v in tensors.items()})


def added():
    reweigh(lambda tensors: {**tensors, "model.layers.0.mlp.extra.weight": torch.ones(3, 3)})


def not_numbers():
    def change(tensors):
        tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = float("nan")

    reweigh(change)


def long_header():
    data = Path("m/model.safetensors").read_bytes()
    Path("m/model.safetensors").write_bytes(struct.pack("<Q", 1 << 60) + data[8:])


def truncated(keep=0.5):
    data = Path("m/model.safetensors").read_bytes()
    Path("m/model.safetensors").write_bytes(data[: int(len(data) * keep)])


def pointer(name):
    text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 3096688\n"
    return lambda: Path("m", name).write_text(text)


def pickled():
    torch.save(load_file("m/model.safetensors"), "m/pytorch_model.bin")
    Path("m/model.safetensors").unlink()


def sharded(parts=2):
    tensors = load_file("m/model.safetensors")
    names = sorted(tensors)
    shards: dict[str, str] = {}
    for i in range(parts):
        file = f"model-{i + 1:05}-of-{parts:05}.safetensors"
        mine = names[i::parts]
        save_file({name: tensors[name] for name in mine}, f"m/{file}", {"format": "pt"})
        shards |= dict.fromkeys(mine, file)
    write_json(Path("m/model.safetensors.index.json"), {"metadata": {}, "weight_map": shards})
    Path("m/model.safetensors").unlink()


def shard_missing():
    sharded()
    Path("m/model-00002-of-00002.safetensors").unlink()


def shard_truncated():
    sharded()
    file = Path("m/model-00002-of-00002.safetensors")
    file.write_bytes(file.read_bytes()[:-1000])


def index_is_no_index():
    sharded()
    Path("m/model.safetensors.index.json").write_text('{"weight_map": ["a"]}')


def no_tokenizer():
    Path("m/tokenizer.json").unlink()


def empty_tokenizer():
    tokenizer = json.loads(Path("m/tokenizer.json").read_text())
    tokenizer["model"] |= {"vocab": {}, "merges": []}
    Path("m/tokenizer.json").write_text(json.dumps(tokenizer))


def unknown_tokenizer():
    """Every text becomes unknown tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "<|end|>": 1, "hello": 2}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save("m/tokenizer.json")
    edit("m/tokenizer_config.json", unk_token="<unk>")


def larger_tokenizer():
    tokenizer = json.loads(Path("m/tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["zzz"] = 400
    Path("m/tokenizer.json").write_text(json.dumps(tokenizer))


def added_token():
    """One more token than embeddings, as Gemma 3 has."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained("m")
    tokenizer.add_tokens(["<tool>"])
    tokenizer.save_pretrained("m")


def quantized(**config):
    return lambda: edit("m/config.json", quantization_config=config)


def float8():
    reweigh(lambda tensors: {k: v.to(torch.float8_e4m3fn) if v.dim() == 2 else v for k, v in tensors.items()})


def config(**changes):
    return lambda: edit("m/config.json", **changes)


def text(name, content):
    return lambda: Path("m", name).write_text(content)


def own_code():
    Path("m/modeling_mine.py").write_text("open('ran', 'w').close()\n")
    auto = {"AutoConfig": "modeling_mine.Config", "AutoModelForCausalLM": "modeling_mine.Model"}
    edit("m/config.json", model_type="mine", auto_map=auto)


# what is done to the model, and what the one line says
DAMAGES = {
    "I1 missing": (without("model.layers.2.mlp.up_proj.weight"), "model.layers.2.mlp.up_proj.weight"),
    "I1 renamed": (renamed("self_attn.", "attention."), "missing"),
    "I1 unexpected": (added, "model.layers.0.mlp.extra.weight"),
    "I1 of more layers": (config(num_hidden_layers=5, layer_types=None), "model.layers.4."),
    "I1 of fewer layers": (config(num_hidden_layers=3, layer_types=None), "model.layers.3."),
    "I1 not numbers": (not_numbers, "model.layers.1.mlp.up_proj.weight"),
    "I1 output layer missing": (config(tie_word_embeddings=False), "lm_head.weight"),
    "I2 no tokenizer": (no_tokenizer, "no tokenizer"),
    "I2 empty tokenizer": (empty_tokenizer, "1 + 1 = 2"),
    "I2 unknown tokens": (unknown_tokenizer, "1 + 1 = 2"),
    "I2 broken tokenizer": (text("tokenizer.json", '{"version": "1.0"}'), "tokenizer"),
    "I2 tokenizer no JSON": (text("tokenizer.json", '{"version'), "tokenizer.json"),
    "I2 tokenizer_config no JSON": (text("tokenizer_config.json", "{"), "tokenizer_config.json"),
    "I5 tokenizer larger": (larger_tokenizer, "resize_token_embeddings"),
    "I5 header of 2^60": (long_header, "model.safetensors"),
    "I5 truncated": (truncated, "model.safetensors"),
    "I5 empty": (lambda: truncated(0), "model.safetensors"),
    "I5 LFS pointer": (pointer("model.safetensors"), "git lfs pull"),
    "I5 LFS pointer tokenizer": (pointer("tokenizer.json"), "git lfs pull"),
    "I5 pickle": (pickled, "safetensors"),
    "I5 no weights": (lambda: Path("m/model.safetensors").unlink(), "model.safetensors"),
    "I5 shard missing": (shard_missing, "model-00002-of-00002.safetensors"),
    "I5 shard truncated": (shard_truncated, "model-00002-of-00002.safetensors"),
    "I5 index": (index_is_no_index, "model.safetensors.index.json"),
    "I5 GPTQ": (quantized(quant_method="gptq", bits=4), "gptq"),
    "I5 AWQ": (quantized(quant_method="awq", bits=4), "awq"),
    "I5 bitsandbytes": (quantized(load_in_4bit=True), "full precision"),
    "I5 fp8": (quantized(quant_method="fp8"), "fp8"),
    "I5 fp8 weights": (float8, "full precision"),
    "I5 shape": (config(intermediate_size=353), "mlp"),
    "I5 heads": (config(num_attention_heads=3), "128]"),
    "I5 vocabulary": (config(vocab_size=250, pad_token_id=None), "embed_tokens"),
    "I5 padding": (config(vocab_size=250), "cannot load"),
    "I5 config no JSON": (text("config.json", '{"model_type": '), "config.json"),
    "I5 config no table": (text("config.json", "[]"), "config.json"),
    "I5 config of another kind": (config(hidden_size="large"), "m"),
    "I5 config without model_type": (text("config.json", "{}"), "model_type"),
    "I5 unknown model_type": (config(model_type="qwen99"), "qwen99"),
    "I5 no causal LM": (text("config.json", '{"model_type": "vit"}'), "vit"),
    "I5 own code": (own_code, "auto_map"),
    "I5 generation_config no JSON": (text("generation_config.json", "{"), "generation_config.json"),
}


QUICK = {
    *("I1 missing", "I1 renamed", "I1 unexpected", "I2 no tokenizer", "I2 empty tokenizer", "I5 tokenizer larger"),
    *("I5 header of 2^60", "I5 truncated", "I5 LFS pointer", "I5 pickle", "I5 GPTQ", "I5 shape", "I5 own code"),
}


def parameters(*names):
    return pytest.mark.parametrize("damage", names, ids=lambda name: name.replace(" ", "_"))


@parameters(*(n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in DAMAGES))
def test_I1_I2_I5_a_damaged_model_is_one_line_and_claims_no_run_directory(work, sieverl, damage):
    damaged, expected = DAMAGES[damage]
    damaged()
    one_line(sieverl("train", "r.toml", "--run-dir", "run"), 3, expected)
    assert not (work / "run").exists()
    assert not (work / "ran").exists()


@parameters("I1 missing", "I2 no tokenizer", "I5 tokenizer larger", "I5 pickle", "I5 GPTQ", "I5 own code")
def test_I1_I2_I5_eval_and_doctor_refuse_it_as_well(work, sieverl, monkeypatch, damage):
    damaged, expected = DAMAGES[damage]
    damaged()
    before = sorted(path.name for path in work.iterdir())
    one_line(sieverl("eval", "--model", "m", *EVAL), 3, expected)
    monkeypatch.setattr(assets, "BASE", Path("m"))
    one_line(sieverl("doctor"), 3, expected)
    assert sorted(path.name for path in work.iterdir()) == before


def bfloat16():
    reweigh(lambda tensors: {k: v.bfloat16() for k, v in tensors.items()})


def both_kinds():
    weights = Path("m/model.safetensors").read_bytes()
    pickled()
    Path("m/model.safetensors").write_bytes(weights)


def more_rows():
    """Embeddings padded to a round number, as many models have them."""

    def change(tensors):
        old = tensors["model.embed_tokens.weight"]
        tensors["model.embed_tokens.weight"] = torch.cat([old, torch.zeros(320 - len(old), old.shape[1])])

    reweigh(change)
    edit("m/config.json", vocab_size=320)


def untied():
    reweigh(lambda tensors: {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].clone()})
    edit("m/config.json", tie_word_embeddings=False)


def ignorable():
    """A buffer of older versions, which the family itself says to pass over."""
    reweigh(lambda tensors: {**tensors, "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(16)})


def test_I5_an_added_token_without_an_embedding_may_not_stand_in_a_prompt(work, sieverl):
    added_token()
    row = json.dumps({"prompt": "1+<tool>", "answer": "2"}) + "\n"
    (work / "data.jsonl").write_text(row * 4)
    one_line(sieverl("train", "r.toml", "--run-dir", "run"), 3, "'<tool>'", "embeddings")
    assert not (work / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("change", [added_token, sharded, bfloat16, both_kinds, more_rows, untied, ignorable])
def test_I1_what_is_whole_loads(work, sieverl, change):
    change()
    code, err = sieverl("eval", "--model", "m", *EVAL, "--output", "a.json")
    assert (code, err) == (0, "")
    if change not in (bfloat16, more_rows, untied):
        assert sieverl("eval", "--model", "base", *EVAL, "--output", "b.json")[0] == 0
        a, b = (json.loads(Path(name).read_text())["model"]["sha256"] for name in ("a.json", "b.json"))
        assert a == b


def test_I5_attention_that_is_not_there_is_a_mistake_in_the_recipe(work, sieverl):
    train = ("train", "r.toml", "--run-dir", "run", "--model.attention")
    one_line(sieverl(*train, "flash_attention_2"), 2, "flash_attention_2", "sdpa")
    one_line(sieverl(*train, "sdpaa"), 2, "'sdpaa'", "Did you mean sdpa?")
    one_line(sieverl(*train, "someone/kernel"), 2, "someone/kernel")
    assert not (work / "run").exists()
    assert sieverl(*train, "eager")[0] == 0


LORA = ("--model.lora.rank", "2", "--run-dir", "run")


def adapter(change):
    reweigh(change, Path("a") / "adapter_model.safetensors")


ADAPTERS = {
    "missing": (lambda: adapter(lambda t: {k: v for k, v in t.items() if "layers.1" not in k}), "layers.1"),
    "renamed": (lambda: adapter(lambda t: {k.replace("lora_A", "lora_X"): v for k, v in t.items()}), "missing"),
    "unexpected": (lambda: adapter(lambda t: {**t, "base_model.model.extra.lora_A.weight": torch.ones(2, 2)}), "extra"),
    "shape": (lambda: adapter(lambda t: {k: v[:, :1].clone() for k, v in t.items()}), "adapter"),
    "no weights": (lambda: Path("a/adapter_model.safetensors").unlink(), "adapter_model.safetensors"),
    "truncated": (lambda: Path("a/adapter_model.safetensors").write_bytes(b"abc"), "adapter_model.safetensors"),
    "config no JSON": (lambda: Path("a/adapter_config.json").write_text("{"), "adapter_config.json"),
    "config of no base": (lambda: edit("a/adapter_config.json", base_model_name_or_path=None), "base_model_name"),
    "config of no kind": (lambda: edit("a/adapter_config.json", peft_type="MINE"), "adapter"),
    "base gone": (lambda: edit("a/adapter_config.json", base_model_name_or_path="./gone"), "config.json"),
}


@pytest.fixture
def adapters(work):
    """LoRA adapters on the model `m`, in the directory `a`."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    config = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained("m"), config).save_pretrained("a")


@pytest.mark.parametrize("damage", ADAPTERS)
def test_I1_a_damaged_adapter_is_one_line(adapters, sieverl, damage):
    damaged, expected = ADAPTERS[damage]
    damaged()
    one_line(sieverl("eval", "--model", "a", *EVAL), 3, expected)


def test_I1_adapters_that_are_whole_load(adapters, sieverl):
    assert sieverl("eval", "--model", "a", *EVAL, "--output", "a.json") == (0, "")


def seal():
    """Rewrite a checkpoint's manifest, as if its files had been saved as they are now."""
    path = Path("run/checkpoints/step-1")
    files = {p.name: manifest.digest(p) for p in path.iterdir() if p.name != "manifest.json"}
    write_json(path / "manifest.json", files)
    return path


@pytest.mark.parametrize("lora", [False, True])
def test_I1_a_checkpoint_goes_through_the_same_checks(work, sieverl, lora):
    train = ("train", "r.toml", "--run-dir", "run", *(LORA if lora else ()))
    assert sieverl(*train)[0] == 0
    name = "adapter_model.safetensors" if lora else "model.safetensors"
    path = seal()
    with safe_open(path / name, "pt") as file:
        lost = sorted(file.keys())[3]
    reweigh(lambda tensors: {k: v for k, v in tensors.items() if k != lost}, path / name)
    seal()
    one_line(sieverl(*train, "--steps", "2"), 3, lost)
    one_line(sieverl("eval", "--model", "run", *EVAL), 3, lost)
    Path(path / ("adapter_config.json" if lora else "config.json")).write_text("{")
    seal()
    one_line(sieverl(*train, "--steps", "2"), 3, "config.json")
