"""A hostile model directory runs nothing, and reads nothing outside itself."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import BASE
from fakes import Characters
from safetensors.torch import load_file, save_file

from sieverl.errors import DataError
from sieverl.model.load import load_adapters, load_model, load_tokenizer, stop_ids


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A copy of the shipped model, in the current directory, as `m`."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(BASE, "m")
    return tmp_path / "m"


def edit(file, **changes):
    path = Path("m", file)
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def refused(expected, load=load_model):
    with pytest.raises(DataError, match=expected) as error:
        load("m")
    assert len(str(error.value).splitlines()) == 1


# --- code -------------------------------------------------------------------------------------------


def own_code(folder: Path, name: str) -> None:
    (folder / f"{name}.py").write_text("open('ran', 'w').close()\nclass Mine: pass\nraise SystemExit('ran')\n")


def run_eval(*args, answer="y\n" * 20):
    """`sieverl eval` on the model, with someone who says yes to everything."""
    command = [sys.executable, "-m", "sieverl", "eval", "--model", "m", "--benchmark", "demo", "--limit", "1"]
    return subprocess.run(
        [*command, "--greedy", "--max-tokens", "2", "--output", "out.json", *args],
        input=answer,
        capture_output=True,
        text=True,
        timeout=240,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )


def test_i9_auto_map_of_a_known_family_is_passed_over_and_asks_nothing(model):
    for name in ("modeling_mine", "tokenization_mine"):
        own_code(model, name)
    mine = {"AutoConfig": "modeling_mine.Mine", "AutoModelForCausalLM": "modeling_mine.Mine"}
    edit("config.json", auto_map=mine, custom_pipelines={"text-generation": {"impl": "modeling_mine.Mine"}})
    edit("tokenizer_config.json", auto_map={"AutoTokenizer": ["tokenization_mine.Mine", "tokenization_mine.Mine"]})
    edit("generation_config.json", custom_generate="m", trust_remote_code=True)
    found = run_eval()
    assert found.returncode == 0, found.stderr
    assert "[y/N]" not in found.stdout + found.stderr
    assert not Path("ran").exists()
    assert load_model("m").config.model_type == "qwen2"


def test_i9_a_family_or_tokenizer_of_its_own_is_refused_without_a_question(model):
    own_code(model, "modeling_mine")
    edit("config.json", model_type="mine", auto_map={"AutoConfig": "modeling_mine.Mine"})
    found = run_eval()
    assert found.returncode == 3, found.stderr
    assert "auto_map" in found.stderr or "own code" in found.stderr
    assert "Traceback" not in found.stderr
    shutil.copy(BASE / "config.json", model)
    edit("tokenizer_config.json", tokenizer_class="Mine", auto_map={"AutoTokenizer": ["modeling_mine.Mine", None]})
    (model / "tokenizer.json").rename(model / "tokenizer.model")
    refused("cannot load the tokenizer", load_tokenizer)
    assert not Path("ran").exists()


class Bomb:
    """Creates the file `ran` when it is unpickled."""

    def __reduce__(self):
        return (os.mkdir, ("ran",))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_i9_pickled_weights_are_refused_by_name_and_not_read(model, name):
    (model / "model.safetensors").unlink()
    (model / name).write_bytes(pickle.dumps(Bomb()))
    refused(f"{name} is a pickle, which can run code")
    refused(f"{name} is a pickle", load_tokenizer)
    assert not Path("ran").exists()


def test_i9_a_pickle_beside_safetensors_or_under_their_name_is_not_read(model):
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "adapter_model.bin"):
        (model / name).write_bytes(pickle.dumps(Bomb()))
    load_model("m")
    (model / "model.safetensors").write_bytes(pickle.dumps(Bomb()))
    refused("model.safetensors is damaged")
    assert not Path("ran").exists()


def test_i9_a_pickled_adapter_is_not_read_and_peft_imports_nothing(model):
    policy = load_model("m")
    Path("a").mkdir()
    Path("a/adapter_model.bin").write_bytes(pickle.dumps(Bomb()))
    config = {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"], "base_model_name_or_path": "m"}
    Path("a/adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match=r"adapter_model.safetensors are missing"):
        load_adapters(policy, Path("a"))
    save_file({"x": torch.ones(1)}, "a/adapter_model.safetensors")
    own_code(Path(), "imported")
    for change, word in (
        ({"megatron_config": {"a": 1}, "megatron_core": "imported"}, "megatron_config"),
        ({"corda_config": {"cache_file": "a/adapter_model.bin"}}, "corda_config"),
        ({"peft_type": "XLORA"}, "LORA is supported"),
    ):
        Path("a/adapter_config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(DataError, match=word):
            load_adapters(policy, Path("a"))
    mapping = {"base_model_class": "Mine", "parent_library": "imported"}  # which PEFT writes itself, and we do not use
    Path("a/adapter_config.json").write_text(json.dumps({**config, "auto_mapping": mapping}))
    with pytest.raises(DataError, match="missing"):
        load_adapters(policy, Path("a"))
    assert not Path("ran").exists()


def test_i15_the_configuration_does_not_choose_what_computes_attention(model):
    for key in ("_attn_implementation", "attn_implementation", "_experts_implementation"):
        for value in ("eager", "someone/kernel", {"": "someone/kernel"}):
            shutil.copy(BASE / "config.json", model)
            edit("config.json", **{key: value})
            assert load_model("m").config._attn_implementation == "sdpa"
    assert load_model("m", implementation="eager").config._attn_implementation == "eager"


# --- other files ------------------------------------------------------------------------------------


@pytest.mark.parametrize("outside", ["../secret.safetensors", "{absolute}", "m/../../secret.safetensors", "..", ""])
def test_i15_a_shard_outside_the_directory_is_refused(model, outside):
    tensors = load_file(model / "model.safetensors")
    secret = model.parent / "secret.safetensors"
    save_file(tensors, secret, {"format": "pt"})
    (model / "model.safetensors").unlink()
    name = outside.format(absolute=secret)
    index = {"metadata": {}, "weight_map": dict.fromkeys(tensors, name)}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    refused("not beside it: only files of the model's own directory are read")
    refused("not beside it", load_tokenizer)


def test_i15_no_other_key_names_a_file_outside(model):
    secret = model.parent / "tokenizer.0.1.json"
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    tokenizer["added_tokens"][0]["content"] = "<|secret|>"
    secret.write_text(json.dumps(tokenizer))
    for key in ("tokenizer_file", "vocab_file", "merges_file", "chat_template_file", "added_tokens_file"):
        shutil.copy(BASE / "tokenizer_config.json", model)
        edit("tokenizer_config.json", **{key: str(secret)})
        assert "<|secret|>" not in load_tokenizer("m").get_vocab()
    edit("tokenizer_config.json", fast_tokenizer_files=["../tokenizer.0.1.json"])
    refused("fast_tokenizer_files", load_tokenizer)
    shutil.copy(BASE / "tokenizer_config.json", model)
    shutil.copy(model / "model.safetensors", "secret.safetensors")
    edit("config.json", transformers_weights="../secret.safetensors")
    refused("transformers_weights")


# --- sizes ------------------------------------------------------------------------------------------


def huge_header(length):
    data = Path("m/model.safetensors").read_bytes()
    Path("m/model.safetensors").write_bytes(struct.pack("<Q", length) + data[8:])


@pytest.mark.parametrize("length", [2**63, 2**40, 200 * 2**20, 3])
def test_i15_a_false_length_of_a_safetensors_header_is_damage(model, length):
    huge_header(length)
    refused("model.safetensors is damaged")


def test_i14_a_configuration_of_more_than_the_weights_hold_is_refused_before_anything_is_built(model, monkeypatch):
    import transformers

    def built(*args, **kwargs):
        raise AssertionError("the model was built")

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", built)
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", built)
    numbers = f"{sum(t.numel() for t in load_file(model / 'model.safetensors').values()):,}"
    for change, expected in (
        ({"num_hidden_layers": 10**9}, "num_hidden_layers = 1,000,000,000, and the weights have 50 tensors"),
        ({"n_layer": 10**6, "num_hidden_layers": None}, "n_layer = 1,000,000"),
        ({"text_config": {"num_hidden_layers": 10**9}}, "num_hidden_layers = 1,000,000,000"),
        ({"hidden_size": 10**9}, f"hidden_size = 1,000,000,000, and the weights have {numbers} numbers"),
        ({"intermediate_size": 10**12}, "intermediate_size = 1,000,000,000,000"),
        ({"vocab_size": 10**6, "hidden_size": 10**4}, "hidden_size|vocab_size|1,000,000 x 10,000"),
        ({"vocab_size": 80_000}, "80,000 x 128 = 10,240,000 numbers"),
        ({"num_experts": 10**9}, "num_experts"),
    ):
        shutil.copy(BASE / "config.json", model)
        edit("config.json", layer_types=None, **change)
        refused(expected)
        refused(expected, load_tokenizer)


def test_i14_deeply_nested_tables_are_refused(model):
    for name in ("config.json", "tokenizer_config.json", "model.safetensors.index.json"):
        shutil.rmtree(model)
        shutil.copytree(BASE, model)
        (model / name).write_text('{"a":' * 100_000 + "1" + "}" * 100_000)
        refused(f"{name} is not valid JSON", load_tokenizer)


def test_end_ids_that_are_none_are_refused(model):
    for ids in ("NaN", "Infinity", "{}", "2.0", "9223372036854775808", "-1", "[2, null]", '["</s>"]', "true"):
        config = Path("m/generation_config.json")
        config.write_text(f'{{"eos_token_id": {ids}, "pad_token_id": 260}}')
        refused("eos_token_id in generation_config.json", load=lambda path: stop_ids(load_model(path), Characters()))
