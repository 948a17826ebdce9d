"""The models that ship, and their names."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from sieverl.assets import BASE, MODELS, model_place
from sieverl.errors import UsageError
from sieverl.model.find import find_model
from sieverl.recipe import load
from sieverl.training.dry_run import dry_run


def test_they_have_names_wherever_one_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hasty").mkdir()  # a folder for something else
    assert find_model("hasty") == (str(MODELS["hasty"]), None)
    assert find_model("base") == (str(BASE), None)
    dry_run(load("demo", {"data.options.size": 20, "evaluate.options.size": 20}), say=print)


def test_a_model_of_ones_own_with_such_a_name_is_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(BASE, tmp_path / "hasty")
    for find in (model_place, find_model):
        with pytest.raises(UsageError, match=r"there is another one in \./hasty: write \./hasty for that one"):
            find("hasty")
    assert find_model("./hasty") == (str(tmp_path / "hasty"), None)
    assert model_place("./hasty") == "./hasty"


def test_they_are_small_and_speak_alike() -> None:
    for folder in MODELS.values():
        weights = load_file(folder / "model.safetensors")
        assert sum(tensor.numel() for tensor in weights.values()) < 3e6
        assert sum(file.stat().st_size for file in folder.iterdir()) < 8e6
        for file in BASE.iterdir():
            if file.suffix == ".json":
                assert (folder / file.name).read_bytes() == file.read_bytes(), "the same configuration and tokenizer"
