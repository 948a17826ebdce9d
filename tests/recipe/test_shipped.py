"""The shipped recipes: each loads, says what it is and what it needs; those for a CPU run as they are."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from sieverl import cli
from sieverl.algorithms.axes import with_axes
from sieverl.algorithms.named import get_algorithm
from sieverl.data.catalog import SOURCES
from sieverl.errors import UsageError
from sieverl.planning.shape import known_shape
from sieverl.recipe import load
from sieverl.recipe.shipped import about, find, shipped
from sieverl.run_dir.metrics import MetricsLog
from sieverl.verify.registry import build

NAMES = tuple(shipped())
SIZED = ("qwen_0.5b_lora", "qwen_1.5b", "qwen_7b")  # for a hardware that they name
MODELS = ("", "hasty")  # the shipped ones
TASKS = ("gsm8k", "math", "reasoning_gym", "own_jsonl", "graded_format")


def plan_line(plan: dict[str, dict[str, object]]) -> str:
    """The plan as the comment of a recipe has it."""
    recipe = plan["recipe"]
    assert recipe["fits"] is True
    gigabytes = [float(str(recipe[key])) / 1e9 for key in ("peak_bytes", "usable_bytes")]
    phases = json.loads(json.dumps(recipe["phases"]))
    parts = ", ".join(f"{one['name']} {one['seconds']:.0f}" for one in phases if one["seconds"] >= 0.5)
    return (
        f"{gigabytes[0]:.1f} of {gigabytes[1]:.1f} usable GB; a step in {float(str(recipe['seconds'])):.0f} s ({parts})"
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_recipe_names_what_there_is(name: str) -> None:
    recipe = load(name)
    with_axes(get_algorithm(recipe.algorithm), recipe.chosen_axes)
    build(recipe.verify.spec)
    for source in (recipe.data.source, recipe.evaluate.source):
        assert source.partition(":")[0] in {"", "reasoning_gym", "data.jsonl", *SOURCES}
    if recipe.model.path not in MODELS:
        assert known_shape(recipe.model.path), "so that it can be planned without the Hub"
        assert recipe.dtype == "bfloat16"
    assert recipe == load(find(name)), "the name is the file"


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_recipe_says_what_it_is_and_what_to_expect(name: str) -> None:
    text = find(name).read_text()
    assert 20 < len(about(find(name))) < 100
    assert about(find(name)).endswith(".")
    assert max(map(len, text.splitlines())) <= 125
    if name in (*SIZED, *TASKS):
        assert "# What to expect: " in text
        assert load(name).model.path in MODELS or re.search(r"not run .*by us", text, re.IGNORECASE)


@pytest.mark.parametrize("name", SIZED)
def test_the_plan_of_a_recipe_is_its_comment(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line.removeprefix("#").strip() for line in find(name).read_text().splitlines()]
    command = next(line for line in lines if line.startswith("sieverl plan"))
    assert cli.main([*command.split()[1:], "--json"]) == 0
    line = plan_line(json.loads(capsys.readouterr().out))
    assert line in lines, f"the recipe {name} should say: {line}"


@pytest.mark.parametrize("name", ["own_jsonl", "graded_format", "reasoning_gym"])
def test_a_recipe_for_any_machine_trains_the_shipped_model(name: str, work: Path) -> None:
    small = ("--rollout.prompts", "2", "--rollout.samples", "2", "--rollout.max_tokens", "24", "--data.limit", "16")
    model = ("--model.path", "", "--dtype", "float32") if load(name).model.path else ()
    code = cli.main(["train", name, "--steps", "1", "--verify.workers", "1", "--display", "none", *small, *model])
    assert code == 0
    last = MetricsLog(work / "runs" / name / "metrics.jsonl").rows()[-1]
    assert last["step"] == 1
    assert last["verify/errors"] == 0
    parts = {key for key in last if key.startswith("reward/") and key.count("/") == 2}
    assert parts == ({"reward/math/mean", "reward/regex/mean"} if name == "graded_format" else set())


def test_the_form_that_the_graded_recipe_asks_for() -> None:
    verify = build(load("graded_format").verify.spec)
    row = {"answer": "17", "metadata": {}}
    worked = "3*8=24\n24-7=17\n\\boxed{17}"
    assert verify(worked, row).reward == pytest.approx(1.2)
    assert verify(worked.replace("17", "16"), row).reward == pytest.approx(0.2)
    assert verify("\\boxed{17}", row).reward == pytest.approx(1.0)
    assert not verify(worked.replace("17", "16"), row).correct


def test_a_name_is_a_shipped_recipe_unless_it_is_a_file(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (work / "math").mkdir()
    assert load("math").model.path, "a folder is no recipe"
    (work / "gsm8k").write_text("steps = 7")
    assert load("gsm8k").steps == 7
    (work / "few.toml").write_text("steps = 5")
    assert load(["math", "few.toml"]).steps == 5, "one over the other, as with files"
    with pytest.raises(UsageError, match=r"there is no recipe own_json\. Did you mean own_jsonl\? .*graded_format"):
        load("own_json")
    with pytest.raises(UsageError, match=r"there is no recipe math\.toml\. Did you mean math\?"):
        load("math.toml")
    assert cli.main(["recipes"]) == 0
    listed = capsys.readouterr().out
    assert all(f"{name}  " in listed for name in NAMES)
    assert cli.main(["recipes", "paper"]) == 0
    (work / "mine.toml").write_text(capsys.readouterr().out)
    assert load(work / "mine.toml") == load("paper")
