"""An exported model: it loads without PEFT, computes what the checkpoint computes, and is there whole or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import BASE
from runs import NOT_EVALUATED, run_it
from safetensors import safe_open
from torch import Tensor

from sieverl.cli import main
from sieverl.errors import DataError, StorageError, UsageError
from sieverl.files import watchers
from sieverl.model.find import load_for_use
from sieverl.model.load import load_model, load_tokenizer, new_adapters
from sieverl.model.policy import Policy
from sieverl.publish.export import Source, choose, export

IDS = torch.arange(3, 23)[None]


def log_probs(policy: Policy) -> Tensor:
    with torch.no_grad():
        return policy.log_probs(policy.hidden(IDS)[0])


def as_others_load_it(folder: Path, dtype: torch.dtype = torch.float32) -> Tensor:
    """With transformers alone."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    with torch.no_grad():
        out: Tensor = model(IDS).logits[0].float().log_softmax(-1)
        return out


def checkpoint(folder: Path, make: Callable[..., Any], tied: bool, rank: int) -> Path:
    """A saved model, or adapters that are not zero on one."""
    model = make("qwen2", vocab_size=2500, tie_word_embeddings=tied)
    tokenizer = load_tokenizer(str(BASE))
    model.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    if not rank:
        return folder / "base"
    adapted = new_adapters(load_model(str(folder / "base")), rank, 16.0, "all-linear")
    with torch.no_grad():
        for name, p in adapted.named_parameters():
            if "lora_" in name:
                p.add_(torch.randn_like(p) * 0.1)
    adapted.save_pretrained(folder / "adapters")
    tokenizer.save_pretrained(folder / "adapters")
    return folder / "adapters"


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("rank", [0, 4], ids=["full", "lora"])
def test_it_computes_what_the_checkpoint_computes(
    tied: bool, rank: int, random_model: Callable[..., Any], tmp_path: Path
) -> None:
    path = checkpoint(tmp_path, random_model, tied, rank)
    expected = log_probs(load_for_use(str(path), "float32"))
    for dtype, shard in (("float32", "200KB"), ("bfloat16", "5GB")):
        export(Source(path, None), out := tmp_path / dtype, dtype, shard=shard)
        assert not list(out.glob("adapter*"))
        assert (out / "generation_config.json").is_file()
        assert (out / "tokenizer.json").is_file()
        assert len(list(out.glob("*.safetensors"))) == 1 if dtype == "bfloat16" else 2
        assert str(tmp_path) not in "".join(file.read_text() for file in out.glob("*.json"))
        whole = dtype == "float32"
        off, share = (0.15, 0.05) if not whole else (1e-4, 1e-4) if rank else (0.0, 0.0)  # of a sum, of rounding
        torch.testing.assert_close(log_probs(load_for_use(str(out), "float32")), expected, atol=off, rtol=share)
        off, share = (1e-4, 1e-4) if whole else (off, share)  # with another attention
        torch.testing.assert_close(as_others_load_it(out), expected, atol=off, rtol=share)
        for file in out.glob("*.safetensors"):
            with safe_open(file, "pt") as tensors:
                assert {tensors.get_tensor(name).dtype for name in tensors.keys()} == {getattr(torch, dtype)}  # noqa: SIM118
    assert json.loads((tmp_path / "bfloat16" / "config.json").read_text())["dtype"] == "bfloat16"


def test_a_checkpoint_in_parts_gives_the_same_model(tmp_path: Path) -> None:
    run_it(tmp_path / "run", steps=1, dtype="float32", checkpoint__format="sharded", **NOT_EVALUATED)
    source = choose(str(tmp_path / "run"), None)
    assert (source.path / "training").is_dir()
    export(source, tmp_path / "out", "float32")
    one, other = (log_probs(load_for_use(str(path), "float32")) for path in (source.path, tmp_path / "out"))
    assert torch.equal(one, other)
    assert not torch.equal(other, log_probs(load_for_use(str(BASE), "float32"))), "it is the trained one"


def test_a_run_gives_the_step_that_was_asked_for(finished: Path, tmp_path: Path) -> None:
    assert choose(str(finished), None).step == choose(str(finished), "latest").step == 3
    assert choose(str(finished), "1").path.name == "step-1"
    assert choose(str(finished), "best").step in (1, 2, 3)
    assert choose(str(finished / "checkpoints" / "step-2"), None).step == 2
    assert choose("base", None).step is None
    with pytest.raises(UsageError, match="no checkpoint of step 9; there are 1, 2, 3, `best` and `latest`"):
        choose(str(finished), "9")
    with pytest.raises(UsageError, match="leave it out"):
        choose(str(BASE), "1")
    with pytest.raises(UsageError, match="allowed: bfloat16, float16, float32"):
        export(choose("base", None), tmp_path / "x", "int8")
    copy = shutil.copytree(finished, tmp_path / "copy")
    (copy / "checkpoints" / "step-3" / "generation_config.json").write_text("{}")
    with pytest.raises(DataError, match=r"damaged: generation_config\.json has changed"):
        choose(str(copy), None)
    (copy / "metrics.jsonl").unlink()
    with pytest.raises(UsageError, match="none is the best"):
        choose(str(copy), "best")
    shutil.rmtree(copy / "checkpoints")
    (copy / "checkpoints").mkdir()
    with pytest.raises(DataError, match="has no checkpoint yet"):
        choose(str(copy), None)


def test_it_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    """Whatever operation of the disk fails, the folder has the old model or the new one, and nothing is left aside."""
    source, output = choose("base", None), tmp_path / "out"
    export(source, output, "float32")
    before = (output / "config.json").read_text()

    def full(operation: str, paths: tuple[Path, ...]) -> None:
        if operation in ("sync", "fill"):
            raise OSError(28, "No space left on device")

    watchers.append(full)
    try:
        for folder, force in ((output, True), (tmp_path / "new", False)):
            with pytest.raises(StorageError, match="cannot write the model"):
                export(source, folder, "bfloat16", force)
    finally:
        watchers.remove(full)
    assert (output / "config.json").read_text() == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_is_there_is_replaced_only_if_it_is_a_model_and_that_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("my only copy")
    source = choose("base", None)
    with pytest.raises(UsageError, match="--force to replace"):
        export(source, tmp_path / "mine")
    with pytest.raises(UsageError, match="holds no model"):
        export(source, tmp_path / "mine", force=True)
    with pytest.raises(UsageError, match="below a file"):
        export(source, tmp_path / "mine" / "thesis.txt" / "x")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "my only copy"
    (tmp_path / "empty").mkdir()
    export(source, tmp_path / "empty")
    (tmp_path / "empty" / "old.txt").write_text("")
    export(source, tmp_path / "empty", force=True)
    assert not (tmp_path / "empty" / "old.txt").exists()


def test_weights_beyond_the_dtype_are_refused(random_model: Callable[..., Any], tmp_path: Path) -> None:
    model = random_model("qwen2", vocab_size=2500)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] = 1e5
    model.save_pretrained(tmp_path / "m")
    load_tokenizer(str(BASE)).save_pretrained(tmp_path / "m")
    with pytest.raises(DataError, match=r"up_proj\.weight of .* too large for float16"):
        export(Source(tmp_path / "m", None), tmp_path / "out", "float16")


def test_the_command_says_what_it_wrote(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(finished), "--output", str(tmp_path / "out"), "--step", "2", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["step"], told["dtype"], told["notes"]) == (2, "bfloat16", [])
    assert {file["name"]: file["size"] for file in told["files"]} == {
        path.name: path.stat().st_size for path in (tmp_path / "out").iterdir()
    }
    assert main(["export", str(finished), "--output", str(tmp_path / "out"), "--force"]) == 0
    assert "the model after step 3, bfloat16" in capsys.readouterr().out
    assert main(["export", str(finished), "--output", str(tmp_path / "out")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
