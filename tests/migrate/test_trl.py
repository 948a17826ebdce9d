"""TRL's configuration, command and scripts as recipes: values, what is listed, rewards that run, hostile files."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from elsewhere import FIXTURES, TINY, sums

import sieverl
from sieverl.errors import UsageError
from sieverl.migrate import convert, from_trl
from sieverl.migrate.trl import LOSSES
from sieverl.recipe import Recipe, load
from sieverl.run_dir.metrics import MetricsLog
from sieverl.training.checks import chosen_algorithm
from sieverl.training.loop import train
from sieverl.training.setup import prepare
from sieverl.verify import build


def flat(recipe: Recipe) -> dict[str, Any]:
    from sieverl.migrate.draft import flat as flattened

    return flattened(recipe.model_dump())


def noted(notes: Any) -> list[str]:
    return [note.name for note in notes]


# --- one configuration ------------------------------------------------------------------------------


def test_the_defaults_of_trl_that_differ_from_ours_are_in_the_recipe() -> None:
    recipe, notes = sieverl.from_trl({})
    assert noted(notes) == ["num_train_epochs"]
    got = flat(recipe)
    expected = {"rollout.samples": 8, "rollout.prompts": 1, "train.lr": 1e-6, "train.schedule": "linear", "seed": 42,
                "dtype": "bfloat16", "axes.aggregate": "token_mean", "axes.kl_coefficient": None, "algorithm": "grpo",
                "distributed.activation_checkpointing": True, "axes.clip_low": 0.2, "axes.clip_high": 0.2}  # fmt: skip
    assert {key: got[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        # 16 x 4 responses of 4 processes, in groups of 8
        ({"per_device_train_batch_size": 16, "gradient_accumulation_steps": 4, "processes": 4},
         {"rollout.prompts": 32, "train.minibatches": 1}),
        # a batch is generated every 8 micro-batches, and 2 are an optimiser step: 4 mini-batches, 2 epochs
        ({"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2, "steps_per_generation": 8,
          "num_iterations": 2, "max_steps": 80, "save_steps": 16, "warmup_steps": 0.1},
         {"rollout.prompts": 8, "train.minibatches": 4, "train.epochs": 2, "steps": 10, "checkpoint.every": 2,
          "train.warmup_updates": 8}),
        ({"per_device_train_batch_size": 8, "generation_batch_size": 64},
         {"rollout.prompts": 8, "train.minibatches": 8}),
        # an optimiser step of several generations is one larger batch
        ({"per_device_train_batch_size": 8, "gradient_accumulation_steps": 4, "steps_per_generation": 2},
         {"rollout.prompts": 4, "train.minibatches": 1}),
        ({"beta": 0.04}, {"axes.kl_coefficient": 0.04, "axes.kl": "k2"}),
        ({"beta": 0.04, "use_bias_correction_kl": False}, {"axes.kl": "k3"}),
        ({"loss_type": "dr_grpo", "scale_rewards": "none"},
         {"algorithm": "dr_grpo", "axes.aggregate": "constant_length"}),
        ({"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 3e-4, "epsilon_high": 4e-4},
         {"algorithm": "gspo", "axes.clip_low": 3e-4, "axes.clip_high": 4e-4}),
        ({"loss_type": "cispo", "epsilon_high": 5.0}, {"algorithm": "cispo"}),
        ({"delta": 2.0, "mask_truncated_completions": True},
         {"axes.dual_clip": 2.0, "train.mask_truncated": True, "axes.denominator": "kept"}),
        ({"loss_type": "grpo", "mask_truncated_completions": True}, {"axes.denominator": None}),
        ({"use_vllm": True, "vllm_tensor_parallel_size": 2},
         {"rollout.engine": "vllm", "rollout.tensor_parallel_size": 2}),
        ({"generation_kwargs": {"stop": "END"}}, {"rollout.stop": ("END",)}),
        ({"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr_rate": 0.1}, "adam_beta2": 0.95},
         {"train.schedule": "cosine", "train.min_lr_ratio": 0.1, "train.betas": (0.9, 0.95)}),
        ({"learning_rate": "1e-5", "max_steps": "3", "save_strategy": "no", "bf16": False},
         {"train.lr": 1e-5, "steps": 3, "checkpoint.every": 0, "dtype": "float32"}),
        ({"fsdp": "full_shard offload"}, {"distributed.strategy": "fsdp", "distributed.cpu_offload": True}),
    ],
)  # fmt: skip
def test_settings_that_decide_together(config: dict[str, Any], expected: dict[str, Any]) -> None:
    processes = config.pop("processes", None)
    recipe, notes = from_trl({"max_steps": 1, **config}, processes=processes)
    got = flat(recipe)
    assert {key: got[key] for key in expected} == expected
    assert noted(notes) == []
    chosen_algorithm(recipe)  # its axes can be applied


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@pytest.mark.parametrize("level", ["token", "sequence"])
def test_every_loss_gives_an_algorithm_and_lists_what_it_is_not(loss: str, scale: str, level: str) -> None:
    recipe, notes = from_trl({"loss_type": loss, "scale_rewards": scale, "importance_sampling_level": level})
    chosen_algorithm(recipe)
    assert ("scale_rewards" in noted(notes)) == (
        scale == "batch" or (scale == "none" and recipe.algorithm != "dr_grpo")
    )
    assert ("loss_type" in noted(notes)) == (loss in ("bnpo", "sapo", "luspo", "vespo"))


def test_what_has_no_counterpart_is_listed_with_the_reason() -> None:
    given = {"top_k": 50, "min_p": 0.0, "trust_remote_code": True, "sync_ref_model": True, "lerning_rate": 1e-5,
             "gradient_checkpointing_kwargs": {"use_reentrant": False}, "logging_steps": 5, "top_p": 1.0}  # fmt: skip
    _, notes = from_trl({"max_steps": 1, **given})
    assert noted(notes) == ["top_k", "trust_remote_code", "sync_ref_model", "lerning_rate",
                            "gradient_checkpointing_kwargs", "logging_steps"]  # fmt: skip
    assert "Did you mean learning_rate?" in notes[3].why
    assert str(notes[0]).startswith("top_k = 50: training samples from the whole distribution")


class Kind(Enum):
    LINEAR = "linear"


@dataclasses.dataclass
class GRPOConfig:
    """What TRL's has after __post_init__: enums, and fields that are derived from others."""

    learning_rate: float = 5e-6
    lr_scheduler_type: Kind = Kind.LINEAR
    per_device_train_batch_size: int = 8
    steps_per_generation: int | None = 2
    gradient_accumulation_steps: int = 2
    generation_batch_size: int | None = 16
    bf16: bool | None = True
    max_steps: int = 4
    accelerator_config: object = dataclasses.field(default_factory=object)


@dataclasses.dataclass
class LoraConfig:
    r: int = 8
    lora_alpha: int = 8
    target_modules: set[str] | None = None
    use_rslora: bool = False
    use_dora: bool = False


def test_a_configuration_object_and_its_adapters() -> None:
    peft = LoraConfig(r=32, target_modules={"v_proj", "q_proj"}, use_rslora=True, use_dora=True)
    recipe, notes = from_trl(GRPOConfig(), model="org/m", data="gsm8k", peft_config=peft)
    assert (recipe.train.lr, recipe.rollout.prompts, recipe.train.minibatches, recipe.steps) == (5e-6, 2, 1, 4)
    assert (recipe.model.lora.rank, recipe.model.lora.targets) == (32, "q_proj,v_proj")
    assert recipe.model.lora.alpha == pytest.approx(8 * 32**0.5)  # so that alpha / rank is 8 / sqrt(32)
    assert (recipe.model.path, recipe.data.source) == ("org/m", "gsm8k")
    assert noted(notes) == ["LoraConfig.use_dora"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"learning_rate": "fast"}, "learning_rate = 'fast' of TRL is not a number"),
        ({"loss_type": "drgrpo"}, "none of TRL's: grpo, dapo"),
        ({"num_generations": 2.5}, "num_generations = 2.5 of TRL is not a whole number"),
        ({"num_generations": 0}, "at least 1"),
        ({"temperature": -1.0}, "rollout.temperature"),
        (3, "a int is no configuration"),
    ],
)
def test_values_that_cannot_be_are_refused(config: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        from_trl(config)


# --- scripts ----------------------------------------------------------------------------------------


def written(source: Path, folder: Path, **processes: int) -> tuple[Path, list[str]]:
    """The recipe of a file, written with what belongs to it; and the names of what is listed."""
    draft = convert(source, folder / "recipe.toml", **processes)
    for name, text in draft.files.items():
        Path(name).write_text(text)
    (folder / "recipe.toml").write_text(draft.toml())
    assert load(folder / "recipe.toml") == draft.recipe(), "the file says what the draft says"
    return folder / "recipe.toml", noted(draft.notes)


def test_a_quick_start_runs_with_its_own_reward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path, notes = written(FIXTURES / "gsm8k_boxed.py", tmp_path)
    recipe = load(path)
    assert notes == ["LoraConfig.lora_dropout", "train_dataset", "top_p"]
    assert recipe.trackers.use == ("wandb",)
    got = flat(recipe)
    expected = {"model.path": "Qwen/Qwen2.5-0.5B-Instruct", "data.source": "openai/gsm8k:main", "data.split": "train",
                "data.system": "Think step by step and put the final answer in \\boxed{}.", "train.lr": 1e-5,
                "rollout.prompts": 4, "rollout.temperature": 0.9, "steps": 200, "run_dir": "outputs/gsm8k",
                "model.lora.rank": 16, "model.lora.alpha": 32.0, "model.lora.targets": "q_proj,v_proj",
                "verify.name": f"{tmp_path}/recipe_rewards.py:correct_reward"}  # fmt: skip
    assert {key: got[key] for key in expected} == expected
    rewards = (tmp_path / "recipe_rewards.py").read_text()
    assert "import re" in rewards
    assert "def boxed" in rewards
    assert "load_dataset" not in rewards
    verify = build(recipe.verify.spec)
    assert verify("so \\boxed{12}", {"question": "?", "answer": "12"}).reward == 1.0
    assert verify("so 12", {"question": "?", "answer": "12"}).reward == 0.0
    run(path, tmp_path, sums(tmp_path / "sums.jsonl"))


def run(path: Path, folder: Path, data: Path, **changes: Any) -> list[dict[str, Any]]:
    """One step of the recipe with the shipped model and local data; the rows of its metrics."""
    changed = {**TINY, "data.source": str(data), "run_dir": str(folder / "run"), "data.options": {}, **changes}
    prepared = prepare(load(path, changed), say=lambda text: None)
    with prepared:
        train(prepared)
    rows = MetricsLog(folder / "run" / "metrics.jsonl").rows()
    assert rows[-1]["step"] == 1
    assert rows[-1]["verify/errors"] == 0
    return rows


def test_weighed_rewards_with_columns_run_and_the_script_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sums(tmp_path / "sums.jsonl")
    path, notes = written(FIXTURES / "columns.py", tmp_path)
    assert not (tmp_path / "it-ran").exists()
    assert notes == []
    recipe = load(path)
    assert recipe.steps == 6, "12 rows, 2 prompts a step"
    assert (recipe.algorithm, recipe.axes.aggregate, recipe.axes.clip_high) == ("dr_grpo", "token_mean", 0.28)
    assert [part["weight"] for part in recipe.verify.spec["parts"]] == [1.0, 0.25, 0.1]
    verdict = build(recipe.verify.spec)("<think>a</think>7", {"answer": "7", "level": "easy"})
    assert verdict.reward == pytest.approx(1.35)
    rewards = (tmp_path / "recipe_rewards.py").read_text()
    assert "LIMIT = 40" in rewards
    assert "# easy ones must be brief" in rewards
    assert "BATCH" not in rewards
    rows = run(path, tmp_path, tmp_path / "sums.jsonl")
    assert "reward/brief/mean" in rows[-1]


def test_what_a_script_decides_as_it_runs_is_listed(tmp_path: Path) -> None:
    path, notes = written(FIXTURES / "options.py", tmp_path)
    assert notes == [
        "beta",
        "reward_funcs",
        "callbacks",
        "learning_rate",
        "num_generation",
        "vllm_mode",
        "rollout.engine",
    ]
    recipe = load(path)
    assert (recipe.model.path, recipe.model.attention, recipe.model.quantization) == (
        "Qwen/Qwen2.5-1.5B",
        "sdpa",
        "nf4",
    )
    assert (recipe.rollout.samples, recipe.rollout.prompts, recipe.train.minibatches) == (16, 8, 4)
    assert (recipe.rollout.engine, recipe.rollout.servers) == ("torch", ()), "which quantised weights need"
    assert (recipe.algorithm, recipe.data.limit, recipe.verify.name) == ("gspo", 100, "math")
    assert (recipe.train.warmup_updates, recipe.steps) == (10, 25)
    text = path.read_text()
    assert "# - learning_rate = args.lr: not a literal, so its value is not known; set train.lr" in text
    assert "Did you mean num_generations?" in text


def test_processes_are_counted(tmp_path: Path) -> None:
    path, _ = written(FIXTURES / "options.py", tmp_path, processes=4)
    assert load(path).rollout.prompts == 32


def test_the_yaml_of_trls_command(tmp_path: Path) -> None:
    path, notes = written(FIXTURES / "grpo.yaml", tmp_path)
    recipe = load(path)
    assert notes == ["min_p"]
    assert (recipe.train.lr, recipe.data.source) == (1e-5, "openai/gsm8k:main"), "1e-5 is text to YAML 1.1"
    assert (recipe.algorithm, recipe.axes.aggregate) == ("dr_grpo", "constant_length")
    assert (recipe.model.lora.rank, recipe.model.lora.alpha, recipe.rollout.prompts) == (32, 32.0, 4)
    assert [(part["name"], part["weight"]) for part in recipe.verify.spec["parts"]] == [("math", 1.0), ("regex", 0.5)]


def test_a_notebook_is_read_without_its_commands(tmp_path: Path) -> None:
    source = (FIXTURES / "columns.py").read_text()
    cells = [{"cell_type": "markdown", "source": ["# GRPO"]},
             {"cell_type": "code", "source": ["!pip install trl\n", "%load_ext x\n", source]}]  # fmt: skip
    (tmp_path / "tour.ipynb").write_text(json.dumps({"cells": cells}))
    path, _ = written(tmp_path / "tour.ipynb", tmp_path)
    assert load(path).algorithm == "dr_grpo"


TRAINER = (
    "from trl import *\n"
    "t = GRPOTrainer('m', f, GRPOConfig(max_steps=1, {}), load_dataset('json', data_files='a.jsonl'))"
)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.py", "def f(:\n", "a.py:1 is not Python"),
        ("a.py", "x = '\0'", "is not Python"),
        ("a.py", "x = " + "(" * 5000 + ")" * 5000, "is not Python"),
        ("a.py", "x = 1\n" * 400_000, "bytes; a script or a configuration has"),
        ("a.py", "SFTTrainer()", "it has SFTTrainer, and only GRPO"),
        ("a.py", TRAINER.format("num_generations=0"), "at least 1"),
        ("a.ipynb", "[]", "no Jupyter notebook"),
        ("a.toml", "", "none of .py, .ipynb, .yaml"),
        ("a.yaml", "!!python/object/apply:os.system ['touch it-ran']", "is not YAML that can be read here"),
        ("a.yaml", "a: &a [1]\nb: [*a, *a]", "YAML aliases"),
        ("a.yaml", "- 1", "no settings"),
        ("a.yaml", "learnin_rate: 3", "Did you mean learning_rate?"),
        ("a.yaml", "learning_rate: fast\n", "not a number"),
        ("a.sh", "echo hello", "starts no verl.trainer.main_ppo"),
        ("a.sh", "python -m verl.trainer.main_ppo a.b='", "no shell that can be read"),
    ],
)
def test_hostile_files_are_refused_in_a_line(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError) as caught:
        convert(tmp_path / name, tmp_path / "recipe.toml")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(Path().glob("it-ran*"))


@pytest.mark.parametrize(
    "words",
    ["temperature=9**9**9", "output_dir='x' * 10**10", "learning_rate=a.b.c(d)", "**given", "seed=[*range(10**9)][0]",
     "run_name='x\\n[verify]\\nname = \"evil.py:f\"\\n#'", "num_generations=1 // 0"],
)  # fmt: skip
def test_expressions_that_would_take_for_ever_or_break_out_are_only_listed(tmp_path: Path, words: str) -> None:
    (tmp_path / "a.py").write_text(TRAINER.format(words))
    path, notes = written(tmp_path / "a.py", tmp_path)
    assert len(notes) >= 1
    assert tomllib.loads(path.read_text())["verify"]["name"] == "math"


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no file"):
        convert(tmp_path / "none.py")
