"""verl's scripts and YAML as recipes, its Parquet as data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from elsewhere import FIXTURES, TINY, of_verl

import sieverl
from sieverl.errors import UsageError
from sieverl.migrate import convert
from sieverl.migrate.verl import ESTIMATORS
from sieverl.recipe import load
from sieverl.run_dir.metrics import MetricsLog
from sieverl.training.checks import chosen_algorithm
from sieverl.training.loop import train
from sieverl.training.setup import prepare

ACTOR, ROLLOUT = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"


def written(name: str, folder: Path) -> tuple[Path, list[str]]:
    draft = convert(FIXTURES / name, folder / "recipe.toml")
    for file, text in draft.files.items():
        Path(file).write_text(text)
    (folder / "recipe.toml").write_text(draft.toml())
    assert load(folder / "recipe.toml") == draft.recipe()
    return folder / "recipe.toml", [note.name for note in draft.notes]


def test_a_shell_script_becomes_a_recipe_and_runs_on_verls_parquet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    of_verl(tmp_path / "gsm8k_train.parquet")
    path, notes = written("run_grpo.sh", tmp_path)
    assert not (tmp_path / "it-ran-in-a-shell").exists()
    assert notes == [f"{ROLLOUT}.gpu_memory_utilization", f"{ROLLOUT}.top_p", f"{ROLLOUT}.tempreature",
                     "trainer.experiment_name"]  # fmt: skip
    assert "Did you mean actor_rollout_ref.rollout.temperature?" in " ".join(path.read_text().replace("#", "").split())
    recipe = load(path)
    assert recipe.trackers.use == ("wandb",)
    assert recipe.model.path == "Qwen/Qwen2.5-0.5B-Instruct"
    assert recipe.data.source == "./gsm8k_train.parquet"
    assert (recipe.rollout.prompts, recipe.rollout.samples, recipe.train.minibatches) == (4, 4, 2)
    assert (recipe.steps, recipe.checkpoint.every, recipe.train.lr) == (6, 20, 3e-6), "12 rows, 4 a step, 2 epochs"
    assert (recipe.axes.kl, recipe.axes.kl_limit, recipe.axes.dual_clip) == ("k3", 10.0, 3.0)
    assert (recipe.algorithm, recipe.axes.aggregate, recipe.data.overlong) == ("grpo", "token_mean", "drop")
    assert recipe.verify.spec == {"name": "math", "after": "####"}
    assert recipe.train.weight_decay == 0.01, "verl's default, which is not ours"
    changed = {**TINY, "run_dir": str(tmp_path / "run"), "data.template": "auto", "rollout.samples": 2}
    prepared = prepare(load(path, changed), say=lambda text: None)
    with prepared:
        train(prepared)
    assert MetricsLog(tmp_path / "run" / "metrics.jsonl").rows()[-1]["rollout/responses"] == 4


def test_yaml_with_a_function_of_verls_signature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    of_verl(tmp_path / "sums.parquet")
    path, notes = written("ppo.yaml", tmp_path)
    assert notes == ["actor_rollout_ref.rollout.response_length", "critic.optim.lr"]
    recipe = load(path)
    assert (recipe.algorithm, recipe.axes.kl_in_reward, recipe.steps) == ("ppo", 0.005, 10)
    assert (recipe.axes.clip_low, recipe.axes.clip_high, recipe.axes.aggregate) == (0.1, 0.1, "sequence_mean")
    assert (recipe.evaluate.source, recipe.evaluate.every, recipe.evaluate.temperature) == ("sums.parquet", 5, 0)
    assert (recipe.distributed.strategy, recipe.model.lora.rank, recipe.rollout.max_tokens) == ("fsdp", 8, 24)
    (tmp_path / "score.py").write_text(
        "def compute_score(data_source, solution_str, ground_truth, extra_info=None):\n"
        "    return {'score': 0.5 if ground_truth in solution_str else 0.0, 'seen': extra_info}\n"
    )
    from sieverl.verify import build

    row = {"answer": "7", "reward_model": {"ground_truth": "7"}, "data_source": "x", "extra_info": {"index": 1}}
    assert build(recipe.verify.spec)("it is 7", row).reward == 0.5


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("filtered", [False, True])
def test_every_estimator_gives_an_algorithm(estimator: str, filtered: bool) -> None:
    tree = {"algorithm": {"adv_estimator": estimator, "filter_groups": {"enable": filtered}}, f"{ROLLOUT}.n": 4}
    recipe, notes = sieverl.from_verl(tree)
    chosen_algorithm(recipe)
    assert any(note.name == "algorithm.adv_estimator" for note in notes) == bool(ESTIMATORS[estimator].differs)
    assert (recipe.algorithm == "dapo") == (filtered and ESTIMATORS[estimator].ours == "grpo")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({f"{ACTOR}.policy_loss.loss_mode": "gspo", f"{ACTOR}.clip_ratio_low": 3e-4}, ("gspo", 3e-4, None)),
        ({f"{ACTOR}.clip_ratio": 0.3}, ("grpo", 0.3, 3.0)),
        ({"algorithm.norm_adv_by_std_in_grpo": False, f"{ACTOR}.clip_ratio_c": 10.0}, ("dr_grpo", 0.2, 10.0)),
    ],
)
def test_losses(given: dict[str, Any], expected: tuple[Any, ...]) -> None:
    recipe, _ = sieverl.from_verl({"algorithm.adv_estimator": "grpo", **given})
    assert (recipe.algorithm, recipe.axes.clip_low, recipe.axes.dual_clip) == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"algorithm.adv_estimator": "grp"}, "none of verl's: gae, grpo"),
        ({f"{ACTOR}.loss_agg_mode": "mean"}, "none of verl's: token-mean"),
        ({"data.train_batch_size": 0}, "at least 1"),
        ({"data.train_batch_size": "many"}, "not a number"),
        (
            {"custom_reward_function.path": "a.py", "custom_reward_function.name": "f()\nimport os"},
            "no name of a function",
        ),
    ],
)
def test_values_that_cannot_be_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        sieverl.from_verl(given)
