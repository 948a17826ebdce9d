"""`sieverl plan` as its user meets it."""

from __future__ import annotations

import json

import pytest

from sieverl import cli
from sieverl.recipe import keys

PAPER = "paper"
Capture = pytest.CaptureFixture[str]


def plan(capsys: Capture, *arguments: str) -> tuple[int, str, str]:
    code = cli.main(["plan", PAPER, *arguments])
    out = capsys.readouterr()
    return code, out.out, out.err


def test_tables_fit_in_80_columns(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = plan(capsys, "--gpus", "512", "--model-shape", "Llama-3-70B")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    assert "…" not in out
    for part in ("parameters", "KV cache", "generate", "bound by", "fastest that fits", "selection saves"):
        assert part in out


def test_a_shipped_model_is_called_by_its_name(capsys: Capture) -> None:
    for options, name in ([], "hasty"), (["--model.path", ""], "base"), (["--model-shape", "base"], "base"):
        assert cli.main(["plan", "demo", *options]) == 0
        assert capsys.readouterr().out.startswith(f"{name}: 772,864 parameters")


def test_json_has_every_number_and_options_that_the_recipe_has(capsys: Capture) -> None:
    code, out, _ = plan(
        capsys, "--gpus", "8", "--gpu-memory", "80", "--json", "--kept", "0.4", "--rollout.samples", "8"
    )
    assert code == 0
    found = json.loads(out)
    assert found["work"]["kept"] == 0.4
    assert found["work"]["samples"] == 8
    assert found["machine"]["memory"] == 80e9
    assert found["recipe"]["seconds"] == pytest.approx(sum(p["seconds"] for p in found["recipe"]["phases"]))
    assert 0 < found["saved_by_selection"] < 1
    known = {f"--{name}" for name, _ in keys()}
    for option in found["best"]["options"]:
        assert option.split()[0] in known, option


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--gpus", "0"], "--gpus is 0; a plan is for 1 GPU or more"),
        (["--gpus", "1" + "0" * 40], "a plan is for 1 GPU or more, up to 1,000,000"),
        (["--gpu-memory", "1e300"], "no more than 1e9"),
        (["--gpu-memory", "-1"], "--gpu-memory is -1; it must be above 0"),
        (["--bandwidth", "nan"], "--bandwidth is nan"),
        (["--gpu", "H10"], "Did you mean H100?"),
        (["--kept", "1.5"], "--kept is 1.5; it is a share"),
        (["--response-tokens", "9999"], "between 1 and rollout.max_tokens = 3072"),
        (["--prompt-tokens", "0"], "--prompt-tokens is 0"),
        (["--model-shape", "/nowhere/config.json"], "--model-shape: a config.json, a model directory"),
        (["--rollout.samplez", "1"], "Did you mean rollout.samples?"),
        (["--algorithm", "grpoo"], "grpo"),
    ],
)
def test_bad_input_is_one_line(capsys: Capture, arguments: list[str], expected: str) -> None:
    code, _, err = plan(capsys, *arguments)
    assert code == 2
    assert expected in err
    assert len(err.strip().splitlines()) == 1
