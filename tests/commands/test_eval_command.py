"""`sieverl eval`: results, models of every kind, comparisons, one clear line for what cannot work."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from conftest import BASE, ROOT
from doc_blocks import blocks, runs
from peft import LoraConfig, get_peft_model

from sieverl.assets import RECIPE
from sieverl.cli import main
from sieverl.model.load import load_model, load_tokenizer
from sieverl.recipe import load
from sieverl.run_dir.manifest import digest
from sieverl.training.heldout import evaluate as evaluate_run
from sieverl.training.setup import prepare
from sieverl.types import JsonObject

Evaluate = Callable[..., tuple[int, str]]


@pytest.fixture
def evaluate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Evaluate:
    """Runs `sieverl eval` in an empty directory; gives back the exit code and what was said."""
    monkeypatch.chdir(tmp_path)

    def run(*options: str) -> tuple[int, str]:
        code = main(["eval", *options])
        out = capsys.readouterr()
        return code, out.out + out.err

    return run


DEMO = ("--model", "base", "--benchmark", "demo", "--limit", "6")


def test_a_result_has_everything_and_is_reproducible(evaluate: Evaluate) -> None:
    code, said = evaluate(*DEMO, "-k", "4")
    assert code == 0
    assert "avg@4" in said
    assert "pass@2" in said
    assert evaluate(*DEMO, "-k", "4")[0] == 0  # a second file: no result is lost
    assert Path("eval-demo.json").read_bytes() == Path("eval-demo.2.json").read_bytes()
    result = json.loads(Path("eval-demo.json").read_text())
    assert result["benchmark"]["prompts"] == len(result["rows"]) == 6
    assert result["sampling"]["temperature"] == 1.0
    recipe = load(RECIPE)
    assert result["sampling"]["max_tokens"] == recipe.rollout.max_tokens
    assert result["verifier"] == recipe.verify.spec
    assert result["prompt"]["example"].endswith("<|end|><|assistant|>")
    assert len(result["model"]["sha256"]) == len(result["prompt"]["chat_template_sha256"]) == 64
    assert {"torch", "transformers", "sieverl", "math-verify"} <= set(result["versions"])
    row = result["rows"][0]
    assert len(row["lengths"]) == len(row["statuses"]) == len(row["answers"]) == 4
    assert row["correct"] == row["statuses"].count("correct")
    assert result["scores"]["avg@4"]["value"] == pytest.approx(sum(r["correct"] for r in result["rows"]) / 24)


def test_samples_do_not_depend_on_how_many_there_are(evaluate: Evaluate) -> None:
    """Noise is a function of (seed, prompt id, sample): in float64 the batch does not matter at all."""
    evaluate(*DEMO, "-k", "3", "--dtype", "float64", "--output", "three.json")
    narrow = ("--model", "base", "--benchmark", "demo", "--limit", "4", "--max-num-seqs", "3", "--dtype", "float64")
    evaluate(*narrow, "-k", "2", "--output", "two.json")
    evaluate(*narrow, "-k", "2", "--seed", "1", "--output", "other.json")
    three, two, other = (json.loads(Path(f"{name}.json").read_text())["rows"] for name in ("three", "two", "other"))
    assert [row["answers"][:2] for row in three[:4]] == [row["answers"] for row in two]
    assert [row["lengths"] for row in two] != [row["lengths"] for row in other]


def test_training_evaluates_with_the_same_code(evaluate: Evaluate) -> None:
    """Row 0 of a run's metrics is what the command says with the run's seed + 1."""
    changes = {"steps": 1, "run_dir": "run", "evaluate.limit": 6, "data.options.size": 60, "evaluate.kl_prompts": 0}
    run = prepare(load(RECIPE, changes), say=lambda text: None)
    with run:
        row = evaluate_run(run)
    evaluate("--model", "hasty", *DEMO[2:], "-k", "4", "--seed", "1")
    numbers = json.loads(Path("eval-demo.json").read_text())["scores"]
    for name in ("avg@4", "pass@4", "maj@4"):
        assert row[f"eval/heldout/{name}"] == numbers[name]["value"]
        assert row[f"eval_ci/heldout/{name}/high"] == numbers[name]["high"]


def test_a_run_and_its_checkpoints_are_models(evaluate: Evaluate) -> None:
    """The newest checkpoint is taken, the result lies in the run, and damage is noticed."""
    for step in (3, 12):
        shutil.copytree(BASE, Path(f"run/checkpoints/step-{step}"))
    newest = Path("run/checkpoints/step-12")
    (newest / "training.json").write_text("{}")
    files = {p.name: digest(p) for p in newest.iterdir()}
    (newest / "manifest.json").write_text(json.dumps(files))
    Path("run/checkpoints/latest").symlink_to("step-12")
    for model in ("run", "run/checkpoints", "run/checkpoints/latest"):
        assert evaluate("--model", model, "--benchmark", "demo", "--limit", "2", "--greedy")[0] == 0
    results = [json.loads(path.read_text()) for path in sorted(Path("run").glob("eval-demo-step-12*.json"))]
    assert len(results) == 3
    assert {result["model"]["path"] for result in results} == {str(newest.resolve())}
    (newest / "config.json").write_text("{}")
    code, said = evaluate("--model", "run", "--benchmark", "demo")
    assert code == 3
    assert "config.json has changed" in said


def test_lora_checkpoints_are_models(evaluate: Evaluate) -> None:
    torch.manual_seed(0)
    config = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
    get_peft_model(load_model(str(BASE)), config).save_pretrained("adapter")
    load_tokenizer(str(BASE)).save_pretrained("adapter")
    assert (
        evaluate("--model", "adapter", "--benchmark", "demo", "--limit", "6", "--greedy", "--output", "a.json")[0] == 0
    )
    assert evaluate(*DEMO, "--greedy", "--output", "b.json")[0] == 0
    a, b = (json.loads(Path(name).read_text()) for name in ("a.json", "b.json"))
    assert a["model"]["sha256"] != b["model"]["sha256"]
    assert [row["lengths"] for row in a["rows"]] != [row["lengths"] for row in b["rows"]]


def test_other_sources_verifiers_and_rows_without_answers(evaluate: Evaluate) -> None:
    Path("rows.jsonl").write_text('{"q": "1+2", "a": "3"}\n{"q": "2+2", "a": null}\n{"q": "2+5", "a": "seven"}\n')
    options = ("--columns", "prompt=q,answer=a", "--max-tokens", "30", "--template", "plain", "--greedy")
    code, said = evaluate("--model", "base", "--benchmark", "rows.jsonl,reasoning_gym:chain_sum", *options)
    assert code == 2  # the task has no column q
    code, said = evaluate("--model", "base", "--benchmark", "rows.jsonl", *options, "--verifier", "number")
    assert code == 0
    assert "1 rows cannot be used, the first: rows.jsonl:2" in said
    assert "1 gold answers do not verify" in said
    result = json.loads(Path("eval-rows.json").read_text())
    assert (result["benchmark"]["dropped"], result["benchmark"]["gold_unverifiable"]) == (1, 1)
    assert result["prompt"]["template"] == "plain"
    assert result["prompt"]["example"] == "1+2"
    assert result["verifier"] == {"name": "number"}
    gym = ("--benchmark", "reasoning_gym:chain_sum", "--limit", "2", "--source-option", "size=2")
    assert evaluate("--model", "base", *gym, "--max-tokens", "8", "-k", "1")[0] == 0
    assert json.loads(Path("eval-chain_sum.json").read_text())["verifier"] == {"name": "reasoning_gym"}


def test_a_slice_of_gsm8k(evaluate: Evaluate, shared_data: Path) -> None:
    source = f"gsm8k@{shared_data / 'gsm8k_test.jsonl'}"
    base = ("--model", "base", "--benchmark", source, "--limit", "4", "-k", "2")
    code, said = evaluate(*base)
    assert code == 2
    assert "together" in said
    assert "the model takes 2,048 (max_position_embeddings); use --max-tokens" in said
    assert evaluate(*base, "--max-tokens", "16")[0] == 0
    result = json.loads(Path("eval-gsm8k.json").read_text())
    assert result["verifier"] == {"name": "math", "rules": "lenient"}
    assert result["shares"]["truncated"] > 0.5


def test_comparison_is_paired_and_names_what_differs(evaluate: Evaluate) -> None:
    """B is right on one prompt more of the two in common, twice of two samples each."""

    def result(name: str, rows: dict[int, int], k: int, temperature: float) -> None:
        row = {"majority": True, "lengths": [1] * k, "statuses": [], "answers": []}
        about = {"name": "toy", "prompts": len(rows)}
        parts: dict[str, object] = {
            "prompt": {"template": "chat"},
            "verifier": {"name": "math"},
            "versions": {},
            "scores": {},
            "shares": {},
        }
        parts["sampling"] = {"k": k, "temperature": temperature}
        parts["rows"] = [{"id": i, "prompt": f"p{i}", "correct": correct, **row} for i, correct in rows.items()]
        parts |= {"benchmark": about, "model": {"name": name, "sha256": name, "dtype": "float32"}}
        Path(f"{name}.json").write_text(json.dumps(parts))

    result("a", {0: 0, 1: 2, 2: 1}, 2, 1.0)
    result("b", {0: 4, 1: 4, 3: 0}, 4, 0.6)
    code, said = evaluate("--compare", "a.json", "b.json")
    assert code == 0
    assert "only the 2 prompts in common are compared, of 3 and 3" in said
    assert "k 2 / 4; temperature 1.0 / 0.6" in said
    line = next(line for line in said.splitlines() if line.startswith("│ avg"))
    assert [cell.strip() for cell in line.strip("│").split("│")][1:4] == ["50.0%", "100.0%", "+50.0%"]
    assert "cannot tell A from B" in said
    assert "maj" not in said
    result("a", dict.fromkeys(range(30), 0), 1, 1.0)
    result("b", {i: int(i % 3 != 0) for i in range(30)}, 1, 1.0)
    assert "B is better" in evaluate("--compare", "a.json", "b.json")[1]
    assert "A is better" in evaluate("--compare", "b.json", "a.json")[1]
    result("b", dict.fromkeys(range(30), 0), 1, 1.0)
    code, said = evaluate("--compare", "a.json", "b.json")
    assert code == 0
    assert said.count("no prompt differs") == 2, "in the table and in the closing line"
    assert "interval of avg" not in said
    result("b", {99: 1}, 1, 1.0)
    code, said = evaluate("--compare", "a.json", "b.json")
    assert code == 2
    assert "no prompt in common" in said


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--model", "base"), 2, "takes --model M and --benchmark"),
        ((*DEMO, "--greedy", "-k", "4"), 2, "--greedy gives 4 times the same response; use -k 1"),
        ((*DEMO, "--greedy", "--temperature", "0.5"), 2, "--greedy takes no --temperature"),
        ((*DEMO, "--temperature", "0"), 2, "it must be above 0"),
        ((*DEMO, "--top-p", "0"), 2, "--top-p is 0"),
        ((*DEMO, "-k", "0"), 2, "at least 1 response"),
        ((*DEMO, "--seed", str(2**63)), 2, "it must be from 0 to 9223372036854775807"),
        ((*DEMO, "--max-num-seqs", "0"), 2, "each must be at least 1"),
        ((*DEMO, "--verifier", "mth"), 2, "Did you mean math?"),
        ((*DEMO, "--option", "boxs=last"), 2, "Did you mean boxes?"),
        ((*DEMO, "--option", "boxes"), 2, "it takes KEY=VALUE"),
        ((*DEMO, "--max-tokens", "2045"), 2, "together"),
        (("--model", "base", "--benchmark", "mth500"), 3, "Did you mean math500?"),
        (("--model", "base", "--benchmark", "no.jsonl"), 3, "no such file: no.jsonl"),
        (("--model", "base", "--benchmark", "math500"), 3, "cannot reach the Hub"),
        (("--model", "base", "--benchmark", "demo,demo"), 2, "two benchmarks are called demo"),
        (("--model", "base", "--benchmark", "reasoning_gym:chain_summ"), 2, "Did you mean chain_sum?"),
        (("--model", "org/model", "--benchmark", "demo"), 3, "cannot reach the Hub for the model"),
        (("--model", "./nothing", "--benchmark", "demo"), 3, "there is no model ./nothing"),
        (("--model", ".", "--benchmark", "demo"), 3, "holds no model"),
        ((*DEMO, "--output", "/proc/none/x.json"), 2, "cannot write"),
        (("--compare", "a.json", "b.json"), 3, "there is no result file a.json"),
    ],
)
def test_what_cannot_work_is_one_clear_line(
    evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], code: int, message: str
) -> None:
    def offline(*args: object, **kwargs: object) -> None:
        raise huggingface_hub.errors.LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    got, said = evaluate(*options)
    assert got == code
    assert message in said
    assert len(said.strip().splitlines()) == 1
    assert not list(Path().glob("*.json"))


def test_the_commands_of_the_page_work(evaluate: Evaluate) -> None:
    shell = [block.text for block in blocks(ROOT / "docs" / "evaluation.md") if runs(block)]
    commands = [shlex.split(line)[2:] for text in shell for line in text.splitlines()]
    said = [evaluate(*options) for options in commands]
    assert [code for code, _ in said] == [0, 0, 0]
    assert "A is better" in said[-1][1]
    assert json.loads(Path("sampled.json").read_text())["benchmark"]["prompts"] == load(RECIPE).evaluate.limit == 256


def test_a_file_that_is_no_result_is_refused(evaluate: Evaluate) -> None:
    Path("a.json").write_text("[1]")
    Path("b.json").write_text("{")
    for name, message in (("a.json", "no result of `sieverl eval`"), ("b.json", "cannot be read as JSON")):
        code, said = evaluate("--compare", name, name)
        assert code == 3
        assert message in said


@pytest.mark.parametrize(
    ("place", "value", "expected"),
    [
        (("rows",), 7, "rows: Input should be a valid list"),
        (("rows", 0), None, "rows.0"),
        (("rows", 0, "id"), [1], "rows.0.id"),
        (("rows", 0, "correct"), 99, "does not have the 1 samples"),
        (("rows", 0, "correct"), -1, "rows.0.correct"),
        (("rows", 0, "lengths"), [1, 2], "does not have the 1 samples"),
        (("sampling", "k"), "4", "sampling.k"),
        (("sampling", "k"), 10**30, "does not have the"),
        (("sampling",), [], "sampling"),
        (("model", "sha256"), {}, "model.sha256"),
        (("versions",), None, "versions"),
        (("benchmark",), "demo", "benchmark"),
    ],
)
def test_fuzz_a_result_with_other_types_is_refused(
    evaluate: Evaluate, place: tuple[str | int, ...], value: object, expected: str
) -> None:
    row = {"id": 0, "prompt": "a", "correct": 1, "majority": True, "lengths": [3], "statuses": ["correct"]}
    model = {"name": "m", "dtype": "float32", "sha256": "0"}
    benchmark = {"name": "demo", "prompts": 1}
    rest: JsonObject = {"verifier": {}, "prompt": {}, "versions": {}, "scores": {}, "shares": {}}
    result: JsonObject = {**rest, "benchmark": benchmark, "model": model, "sampling": {"k": 1}, "rows": [row]}
    Path("a.json").write_text(json.dumps(result))
    assert evaluate("--compare", "a.json", "a.json")[0] == 0
    *path, last = place
    inner: Any = result
    for key in path:
        inner = inner[key]
    inner[last] = value
    Path("b.json").write_text(json.dumps(result))
    code, said = evaluate("--compare", "a.json", "b.json")
    assert code == 3
    assert said.startswith("sieverl: b.json is no result of `sieverl eval`: ")
    assert expected in said
