"""Evaluation: estimates against hand-worked numbers and enumeration, intervals against simulation, the command."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from conftest import BASE, ROOT
from intervals import coverage

from sieverl.assets import RECIPE
from sieverl.cli import main
from sieverl.distributed.world import World
from sieverl.engines.fake import FakeEngine
from sieverl.engines.protocol import SamplingParams
from sieverl.evaluation.measure import measure, summarise
from sieverl.evaluation.statistics import majority, mean_interval, paired_interval, pass_at, scores, t95
from sieverl.evaluation.votes import answer_reader
from sieverl.recipe import load
from sieverl.rollout.environment import Environment, PromptSet
from sieverl.types import Prompt, Status
from sieverl.verify import Pool

# --- statistics -------------------------------------------------------------------------------------


@pytest.mark.parametrize("draws", [1, 2, 3, 5, 6])
def test_pass_at_is_the_share_of_subsets_with_a_correct_response(draws):
    for correct in range(7):
        right = [1] * correct + [0] * (6 - correct)
        subsets = list(combinations(right, draws))
        assert pass_at(np.array([correct]), 6, draws)[0] == pytest.approx(sum(map(any, subsets)) / len(subsets))


def test_pass_at_of_large_counts_is_exact():
    assert pass_at(np.array([1]), 1024, 512)[0] == 0.5
    assert pass_at(np.array([0, 1024]), 1024, 1).tolist() == [0.0, 1.0]


def test_pass_at_has_no_bias():
    """The mean over many runs of 6 samples is 1 - (1-p)^3, where the plug-in estimate from the share is too low."""
    correct_P = np.random.default_rng(0).binomial(6, 0.3, 200_000)
    truth = 1 - 0.7**3
    assert pass_at(correct_P, 6, 3).mean() == pytest.approx(truth, abs=3e-3)
    assert (1 - (1 - correct_P / 6) ** 3).mean() < truth - 0.02


def test_scores_by_hand():
    found = scores(np.array([0, 1, 4, 4]), np.array([False, True, True, True]), samples=4)
    assert list(found) == ["avg@4", "pass@1", "pass@2", "pass@4", "maj@4"]
    values = [round(value, 6) for value, _, _ in found.values()]
    assert values == [9 / 16, 9 / 16, (0 + 0.5 + 1 + 1) / 4, 3 / 4, 3 / 4]


def test_majority_ties_and_silence():
    assert majority(["a", "b", "b", "a"]) == 0
    assert majority(["a", "b", "c", "b"]) == 1
    assert majority([None, None, None, "z"]) == 3
    assert majority([None]) is None


def test_M14_student_t_against_the_table():
    for freedom, value in {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 9: 2.262, 29: 2.045, 99: 1.984}.items():
        assert t95(freedom) == pytest.approx(value, abs=5e-4)


@pytest.mark.parametrize("difference", [1.0, 0.25, -0.5, 0.1])
def test_M14_two_prompts_that_agree_give_a_width(difference):
    a_P = np.array([0.5, 0.5]) - difference / 2
    mean, low, high = paired_interval(a_P, a_P + difference)
    assert mean == pytest.approx(difference)
    assert low < 0 < high, "two prompts tell next to nothing"
    assert high - low > 0.9
    for value in (0.0, 0.3, 1.0):
        _, low, high = mean_interval(np.array([value, value]), samples=4)
        assert high - low > 0.5


@pytest.mark.parametrize("prompts", [2, 10, 30])
@pytest.mark.parametrize("samples", [1, 4])
@pytest.mark.parametrize("shape", [(1.0, 1.0), (0.5, 10.0)])
def test_M14_intervals_cover_as_documented(prompts, samples, shape):
    for share in coverage(prompts, samples, shape, runs=400).values():
        assert 0.90 <= share <= 1.0


def test_interval_by_hand():
    """40 of 100 single responses: Wilson's interval with t = 1.984."""
    mean, low, high = mean_interval(np.array([1.0] * 40 + [0.0] * 60))
    t, n, p = 1.984, 100, 0.4
    half = t * (p * (1 - p) / n + t * t / (4 * n * n)) ** 0.5
    expected = [(p + t * t / (2 * n) + sign * half) / (1 + t * t / n) for sign in (-1, 1)]
    assert [low, high] == pytest.approx(expected, abs=1e-4)
    assert mean == 0.4


def test_interval_counts_prompts_and_not_responses():
    """Prompts that are all right or all wrong tell as much with 16 samples as with one."""
    clear = np.array([1.0, 0.0] * 15)
    assert mean_interval(clear, 16) == mean_interval(clear, 1)
    unsure = np.array([0.5, 0.4375, 0.5625] * 10)
    width = [high - low for _, low, high in (mean_interval(unsure, 16), mean_interval(clear, 16))]
    assert width[0] < width[1] / 3
    assert mean_interval(np.array([0.5]), 16)[1:] == (0.0, 1.0)


@pytest.mark.parametrize("prompts", [30, 200])
@pytest.mark.parametrize("samples", [1, 4, 16])
@pytest.mark.parametrize("shape", [(1.0, 1.0), (0.2, 0.2), (5.0, 5.0), (0.5, 10.0)])
def test_intervals_cover_the_truth_19_times_of_20(prompts, samples, shape):
    """Prompts of many difficulties; the truth is the mean over all prompts there could be."""
    rng = np.random.default_rng(3)
    truth, runs = shape[0] / sum(shape), 2000
    value_RP = rng.binomial(samples, rng.beta(*shape, (runs, prompts))) / samples
    inside = [low <= truth <= high for _, low, high in (mean_interval(value_P, samples) for value_P in value_RP)]
    assert 0.92 <= np.mean(inside) <= 0.985
    if (prompts, samples, shape) == (30, 1, (0.5, 10.0)):  # what the usual mean +- 1.96 standard errors does here
        half_R = 1.96 * value_RP.std(1, ddof=1) / prompts**0.5
        assert np.mean(abs(value_RP.mean(1) - truth) <= half_R) < 0.82


def test_paired_interval_sees_what_separate_ones_do_not():
    rng = np.random.default_rng(0)
    a_P = rng.beta(0.5, 0.5, 200)
    b_P = np.clip(a_P + rng.normal(0.03, 0.05, 200), 0, 1)
    mean, low, high = paired_interval(a_P, b_P)
    assert 0 < low < mean < high < 0.05
    assert mean_interval(a_P, 16)[2] > mean_interval(b_P, 16)[1]
    assert paired_interval(b_P, a_P) == pytest.approx((-mean, -high, -low))


def test_paired_interval_covers_and_admits_ignorance():
    rng = np.random.default_rng(1)
    a_RP = rng.binomial(4, rng.beta(1, 1, (1000, 40))) / 4
    b_RP = rng.permuted(a_RP, axis=1)
    inside = [low <= 0 <= high for _, low, high in map(paired_interval, a_RP, b_RP)]
    assert np.mean(inside) > 0.92
    assert paired_interval(np.zeros(30), np.zeros(30)) == pytest.approx((0, -0.122, 0.122), abs=1e-3)
    assert paired_interval(np.zeros(1), np.ones(1)) == (1.0, -1.0, 1.0)


# --- the answer that a response votes for -----------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "texts"),
    [
        ({"name": "math"}, [r"\boxed{1,200}", r"\boxed{1200.0}", "so it is 1200", r"it is $1200$ \text{cm}"]),
        ({"name": "math", "rules": "lenient"}, [r"\boxed{\dfrac{x}{2}}", r"thus $\frac{x}{2}$.", r"\(\frac{x}{2}\)"]),
        ({"name": "math", "after": "A:"}, ["5, 6\nA: 7", r"A: \boxed{7}", "A: 7.0"]),
        ({"name": "math", "boxes": "first"}, [r"\boxed{1} \boxed{2}", r"\boxed{1} \boxed{3}"]),
        ({"name": "choice"}, ["The answer is (B).", r"\boxed{\text{B}}", "2 of 3: option B"]),
        ({"name": "string"}, ["New  York", r"\boxed{new york}"]),
        ({"name": "reasoning_gym"}, ["<answer>3 1</answer>", "hm <answer> 3 1</answer>"]),
        ({"name": "sum", "parts": [{"name": "number"}]}, ["4 apples", r"\boxed{4}"]),
        ({"name": "mine.py:reward"}, ["first 3, then 4", "4"]),
    ],
)
def test_answers_that_look_alike_vote_together(spec, texts):
    read = answer_reader(spec)
    assert len({read(text) for text in texts}) == 1
    assert read(texts[0]) is not None
    assert read("") is None


def test_answers_that_differ_vote_apart():
    read = answer_reader({"name": "math"})
    texts = ["", r"\boxed{3}", r"\boxed{-3}", r"\boxed{x^2}", r"\boxed{x^3}", r"$x^2+1$ or 1", r"\boxed{(1,2)}"]
    texts += [r"\boxed{" + "7" * 5000 + "}", r"\boxed{" + "7" * 5001 + "}"]
    assert len({read(text) for text in texts}) == len(texts)


# --- measuring --------------------------------------------------------------------------------------


class Words:
    """A tokenizer of one token a character."""

    def decode(self, tokens, skip_special_tokens=True):
        return "".join(map(chr, tokens)).rstrip("\n")


def fake_environment(said, answers, max_tokens=40):
    """An environment whose engine gives `said[prompt id][sample]`; the newline ends a response."""
    engine = FakeEngine(lambda request, sample: [ord(c) for c in said[request.prompt_id][sample]])
    prompts = [Prompt(i, f"q{i}", {"answer": answer}) for i, answer in enumerate(answers)]
    pool = Pool({"name": "number"})
    sampling = SamplingParams(max_tokens, (ord("\n"),))
    return Environment(engine, pool, Words()), PromptSet(prompts, [[1]] * len(prompts), sampling, 0)


SAID = [
    ["so 4\n", "4.0\n", "5\n", "none\n"],  # 2 right, majority right
    ["7\n", "8\n", "8\n", "7" * 99],  # 1 right, majority wrong, one truncated
    ["1" * 99] * 4,  # all truncated
    ["9\n", "none\n", "none\n", "none\n"],  # one answer outvotes silence
]


def test_records_and_summary_by_hand():
    measured = measure(*fake_environment(SAID, ["4", "7", "1", "9"]), 4, {"name": "number"})
    records, scored = measured.records, measured.scored
    assert [sum(one.correct) for one in records] == [2, 1, 0, 1]
    assert [one.majority for one in records] == [True, False, False, True]
    assert records[0].answers == ("4", "4", "5", None)
    assert records[1].statuses == (Status.CORRECT, Status.INCORRECT, Status.INCORRECT, Status.TRUNCATED)
    assert records[1].lengths == (2, 2, 2, 40)
    assert [s.text for s in scored[:2]] == ["so 4", "4.0"]
    found = summarise(records)
    assert found.scores["avg@4"][0] == 4 / 16
    assert found.scores["pass@2"][0] == pytest.approx((5 / 6 + 1 / 2 + 0 + 1 / 2) / 4)
    assert found.scores["maj@4"][0] == 2 / 4
    assert found.shares["truncated"] == 5 / 16
    assert found.shares["no_answer"] == 4 / 16
    assert found.shares["verifier_timeout"] == found.shares["verifier_error"] == 0


def test_ranks_share_the_prompts():
    (environment, prompts), spec = fake_environment(SAID, ["4", "7", "1", "9"]), {"name": "number"}
    whole = measure(environment, prompts, 4, spec).records

    class Half(World):
        def all_gather(self, value):
            return [value]

    halves = [measure(replace(environment, world=Half(rank, 2)), prompts, 4, spec).records for rank in (0, 1)]
    assert [one.prompt for one in halves[1]] == [1, 3]
    assert sorted(halves[0] + halves[1], key=lambda one: one.prompt) == whole


# --- the command ------------------------------------------------------------------------------------


@pytest.fixture
def evaluate(tmp_path, monkeypatch, capsys):
    """Runs `sieverl eval` in an empty directory; gives back the exit code and what was said."""
    monkeypatch.chdir(tmp_path)

    def run(*options):
        code = main(["eval", *options])
        out = capsys.readouterr()
        return code, out.out + out.err

    return run


DEMO = ("--model", "base", "--benchmark", "demo", "--limit", "6")


def test_a_result_has_everything_and_comes_again_the_same(evaluate):
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


def test_samples_do_not_depend_on_how_many_there_are(evaluate):
    """Noise is a function of (seed, prompt id, sample): in float64 the batch does not matter at all."""
    evaluate(*DEMO, "-k", "3", "--dtype", "float64", "--output", "three.json")
    narrow = ("--model", "base", "--benchmark", "demo", "--limit", "4", "--max-num-seqs", "3", "--dtype", "float64")
    evaluate(*narrow, "-k", "2", "--output", "two.json")
    evaluate(*narrow, "-k", "2", "--seed", "1", "--output", "other.json")
    three, two, other = (json.loads(Path(f"{name}.json").read_text())["rows"] for name in ("three", "two", "other"))
    assert [row["answers"][:2] for row in three[:4]] == [row["answers"] for row in two]
    assert [row["lengths"] for row in two] != [row["lengths"] for row in other]


def test_training_evaluates_with_the_same_code(evaluate):
    """Row 0 of a run's metrics is what the command says with the run's seed + 1."""
    changes = {"steps": 1, "run_dir": "run", "evaluate.limit": 6, "data.options.size": 60, "evaluate.kl_prompts": 0}
    from sieverl.training.heldout import evaluate as evaluate_run
    from sieverl.training.setup import prepare

    run = prepare(load(RECIPE, changes), say=lambda text: None)
    with run.pool:
        row = evaluate_run(run)
    evaluate(*DEMO, "-k", "4", "--seed", "1")
    numbers = json.loads(Path("eval-demo.json").read_text())["scores"]
    for name in ("avg@4", "pass@4", "maj@4"):
        assert row[f"eval/heldout/{name}"] == numbers[name]["value"]
        assert row[f"eval_ci/heldout/{name}/high"] == numbers[name]["high"]


def test_a_run_and_its_checkpoints_are_models(evaluate):
    """The newest checkpoint is taken, the result lies in the run, and damage is noticed."""
    from sieverl.run_dir.manifest import digest

    for step in (3, 12):
        shutil.copytree(BASE, Path(f"run/checkpoints/step-{step}"))
    newest = Path("run/checkpoints/step-12")
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


def test_lora_checkpoints_are_models(evaluate):
    import torch
    from peft import LoraConfig, get_peft_model

    from sieverl.model.load import load_model, load_tokenizer

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


def test_other_sources_verifiers_and_rows_without_answers(evaluate):
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


def test_a_slice_of_gsm8k(evaluate, shared_data):
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


def test_comparison_is_paired_and_names_what_differs(evaluate):
    """B is right on one prompt more of the two in common, twice of two samples each."""

    def result(name, rows, k, temperature):
        row = {"majority": True, "lengths": [1] * k, "statuses": [], "answers": []}
        about = {"name": "toy", "prompts": len(rows)}
        parts = {
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
    result("b", {i: i % 3 != 0 for i in range(30)}, 1, 1.0)
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
        (("--model", "org/model", "--benchmark", "demo"), 3, "cannot reach the Hub for the model 'org/model'"),
        (("--model", "./nothing", "--benchmark", "demo"), 3, "there is no model ./nothing"),
        (("--model", ".", "--benchmark", "demo"), 3, "holds no model"),
        ((*DEMO, "--output", "/proc/none/x.json"), 2, "cannot write"),
        (("--compare", "a.json", "b.json"), 3, "there is no result file a.json"),
    ],
)
def test_what_cannot_work_is_one_clear_line(evaluate, monkeypatch, options, code, message):
    import huggingface_hub

    def offline(*args, **kwargs):
        raise huggingface_hub.errors.LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    got, said = evaluate(*options)
    assert got == code
    assert message in said
    assert len(said.strip().splitlines()) == 1
    assert not list(Path().glob("*.json"))


def test_the_commands_of_the_page_work(evaluate):
    page = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    commands = [shlex.split(line)[2:] for block in blocks for line in block.splitlines()]
    said = [evaluate(*options) for options in commands]
    assert [code for code, _ in said] == [0, 0, 0]
    assert "B is better" in said[-1][1]
    assert json.loads(Path("sampled.json").read_text())["benchmark"]["prompts"] == load(RECIPE).evaluate.limit == 256


def test_a_file_that_is_no_result_is_refused(evaluate):
    Path("a.json").write_text("[1]")
    Path("b.json").write_text("{")
    for name, message in (("a.json", "no result of `sieverl eval`"), ("b.json", "cannot be read as JSON")):
        code, said = evaluate("--compare", name, name)
        assert code == 3
        assert message in said
