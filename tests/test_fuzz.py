"""Recipes, command lines, rows, models and run directories as nobody meant them: one line of error, nothing lost.

10,000 examples in `make test-faults`, a fifth of them in `make test-slow`, some in `make test`; FUZZ_SEED draws others.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import fuzz
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tomli_w
import torch
from conftest import BASE
from fuzz import NUMBERS, TEXTS, VALUES, bytes_of, contents, edited, harmed, run
from hypothesis import strategies as st

from sieverl.files import remove
from sieverl.recipe import Recipe, keys
from sieverl.run_dir import manifest

pytestmark = pytest.mark.filterwarnings("default")
COUNTS = {  # examples in `make test` and in `make test-faults`; those that load a model take longest
    "recipes": (100, 4000),
    "command_lines": (100, 4000),
    "rows": (50, 1400),
    "models": (20, 300),
    "run_directories": (15, 300),
}
NOWHERE = ["--data.source", "nowhere.jsonl", "--evaluate.source="]
ROWS = [{"prompt": f"{a}+1=", "answer": str(a + 1), "extra": {"of": [a]}} for a in range(3)]


def counts(kind: str) -> pytest.MarkDecorator:
    """The test of a kind with few examples, a fifth of many, and many."""
    few, many = COUNTS[kind]
    some = pytest.param(many // 5, marks=pytest.mark.slow)
    return pytest.mark.parametrize(
        "count", [few, some, pytest.param(many, marks=[pytest.mark.faults, pytest.mark.timeout(3600)])]
    )


def test_there_are_ten_thousand_examples() -> None:
    assert sum(many for _, many in COUNTS.values()) >= 10_000


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, in a sandbox whose other files must stay as they are."""
    (tmp_path / "beside").mkdir()
    (tmp_path / "beside" / "file").write_text("precious")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def empty(folder: Path, *but: str) -> None:
    """Remove what an example left."""
    for path in folder.iterdir():
        if path.name not in but:
            remove(path)


# --- recipes ----------------------------------------------------------------------------------------

DEFAULTS = Recipe().model_dump()
KEYS = [name for name, _ in keys()]


def default(key: str) -> Any:
    value: Any = DEFAULTS
    for part in key.split("."):
        value = value[part]
    return value


@st.composite
def recipes(draw: st.DrawFn) -> bytes:
    """A TOML file with some keys of another type, size or name; now and then no TOML at all."""
    tables: dict[str, Any] = {}
    for _ in range(draw(st.integers(1, 3))):
        key = draw(st.sampled_from(KEYS)) if draw(st.integers(0, 7)) else draw(TEXTS)
        value = draw(st.one_of(VALUES, NUMBERS, edited(default(key)) if key in KEYS else VALUES))
        inner, (*path, last) = tables, key.split(".")
        for part in path:
            if not isinstance(inner.get(part), dict):
                inner[part] = {}
            inner = inner[part]
        inner[last] = value
    text = tomli_w.dumps(without_none(tables)).encode(errors="surrogatepass")
    return text if draw(st.integers(0, 5)) else draw(bytes_of(text))


def without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: without_none(v) for k, v in value.items() if v is not None}
    return [without_none(v) for v in value if v is not None] if isinstance(value, list | tuple) else value


COMMANDS = [["plan", "r.toml", "--gpus", "2"], ["train", "r.toml", *NOWHERE], ["train", "r.toml", *NOWHERE]]


@counts("recipes")
def test_recipes(count: int, here: Path) -> None:
    def check(example: tuple[bytes, list[str]]) -> None:
        recipe, command = example
        (here / "r.toml").write_bytes(recipe)
        run(*command, may_write=here)
        assert contents(here.parent) == {"beside/file": b"precious", "here/r.toml": recipe}

    fuzz.fuzz(count, st.tuples(recipes(), st.sampled_from(COMMANDS)), check)


# --- command lines ----------------------------------------------------------------------------------

# a name is never a folder above this one, and no word is "demo", which would train
WORDS = st.one_of(TEXTS, NUMBERS.map(str), st.sampled_from(["nowhere/x", "a/b", "~nobody-of-this-name", "\udcff", "."]))
WORDS = WORDS.filter(lambda word: word in ("nowhere/x", "a/b") or (not word.startswith("~") and "/" not in word))
WORDS |= st.sampled_from(["r.toml", "d.jsonl", "base", "~nobody-of-this-name", "--", "-", "--x", "-k", "--help"])
OPTIONS = {
    "train": [
        "--run-dir",
        "--resume",
        "--algorithm",
        "--steps",
        "--seed",
        "--dtype",
        "--launcher",
        "--workers",
        "--dry-run",
    ],
    "plan": [
        *("--gpus", "--gpu", "--gpu-memory", "--bandwidth", "--flops", "--link", "--network", "--model-shape"),
        *("--prompt-tokens", "--response-tokens", "--tail", "--kept", "--json"),
    ],
    "verify": ["--verifier", "--option", "--gold", "--response", "--timeout", "--memory-mb", "--environment"],
    "eval": [
        *("--model", "--benchmark", "-k", "--temperature", "--greedy", "--top-p", "--top-k", "--max-tokens"),
        *("--limit", "--template", "--system", "--seed", "--dtype", "--max-num-seqs", "--verifier", "--option"),
        *("--columns", "--split", "--source-option", "--compare"),
    ],
    "data": [
        *("--columns", "--split", "--limit", "--option", "--suffix", "--tokenizer", "--max-prompt-tokens"),
        *("--benchmarks", "--ngram", "--keep-duplicates"),
    ],
    "algorithms": ["--json"],
    "doctor": ["--model"],
    "init": ["--from", "--model", "--data", "--algorithm", "--verifier", "--columns", "--split", "--processes"],
    "replay": ["--algorithm", "--step", "--steps", "--graded", "--json"],
    "export": ["--dtype", "--step"],
    "push": ["--repo", "--dtype", "--step", "--public"],
    "report": ["--output", "--figures"],
    "recipes": [],
    "study": ["--processes", "--dry-run", "--table"],
    "config": [],
    "completion": [],
}
FIRST = {
    "train": ["train", "r.toml"],
    "plan": ["plan", "r.toml"],
    "data": ["data", "prepare", "d.jsonl"],
    **{command: [command, "nowhere"] for command in ("replay", "export", "push", "report", "study")},
}
LAST = {
    "train": NOWHERE,
    "verify": ["--input", "d.jsonl", "--output", "g.jsonl", "--workers", "1"],
    "eval": ["--model", "nowhere"],
    "data": ["--output", "o.parquet", "--verifier", "none"],
    "init": ["--output", "i.toml", "--force"],
    "export": ["--output", "nowhere/x"],
    "push": ["--dry-run"],
}


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    """A command with options of other values, other options, other words; what would take long is left out."""
    command = draw(st.sampled_from(list(OPTIONS)))
    words = list(FIRST.get(command, [command]))
    for _ in range(draw(st.integers(0, 4))):
        kind = draw(st.integers(0, 5))
        if kind <= 3 and OPTIONS[command]:
            words += [draw(st.sampled_from(OPTIONS[command])), draw(WORDS)]
        elif kind == 4 and command in ("train", "plan"):
            words += [f"--{draw(st.sampled_from(KEYS))}", draw(WORDS)]
        else:
            words.append(draw(WORDS))
    return [*words, *LAST.get(command, [])]


@counts("command_lines")
def test_command_lines(count: int, here: Path) -> None:
    (here / "r.toml").write_text("steps = 1\n")
    (here / "d.jsonl").write_text("".join(json.dumps({**row, "gold": "1", "response": "1"}) + "\n" for row in ROWS))
    written = {"g.jsonl", "o.parquet", "o.parquet.dropped.jsonl", "i.toml", "i_rewards.py", "i_reward.py"}

    def check(line: list[str]) -> None:
        run(*line, may_write=here)
        found = {name.removeprefix("here/") for name in contents(here.parent)}
        assert found - written == {"beside/file", "r.toml", "d.jsonl"}

    fuzz.fuzz(count, command_lines(), check)


# --- rows -------------------------------------------------------------------------------------------

FORMATS = ("d.jsonl", "d.json", "d.parquet", "d.csv")
VERIFY = ["verify", "--output", "g.jsonl", "--workers", "1", "--gold", "answer", "--response", "prompt", "--input"]
PREPARE = ["data", "prepare", "--output", "o.parquet", "--verifier", "none"]
EVAL = ["eval", "-k", "1", "--max-tokens", "1", "--output", "e.json"]
READERS = [
    *([PREPARE] * 5),
    [*PREPARE, "--option", "extract=plain", "--keep-duplicates"],
    [*PREPARE, "--option", "extract=json_list", "--columns", "prompt=extra,answer=extra.of"],
    [*PREPARE, "--option", "extract=integer", "--suffix", "boxed"],
    [*PREPARE, "--option", "extract=gsm8k", "--benchmarks", "d.jsonl", "--ngram", "2"],
    [*PREPARE, "--tokenizer", str(BASE), "--max-prompt-tokens", "20"],
    [*VERIFY[:-1], "--verifier", "math", "--input"],
    [*VERIFY[:-1], "--verifier", "choice", "--input"],
    ["train", "r.toml", "--rollout.max_tokens", "9999", "--data.template=auto", "--data.source"],  # too long to begin
    [*EVAL, "--model", "base", "--split", "train", "--limit", "2", "--benchmark"],
]


@st.composite
def row_files(draw: st.DrawFn) -> tuple[str, bytes]:
    """A file of rows of which some are harmed."""
    rows: list[Any] = draw(edited(ROWS)) if draw(st.booleans()) else [draw(edited(row)) for row in ROWS]
    name = draw(st.sampled_from(FORMATS[:1] * 4 + FORMATS))
    lines = rows if isinstance(rows, list) else [rows]
    data = fuzz.as_json(rows) if name == "d.json" else b"".join(fuzz.as_json(row) + b"\n" for row in lines)
    if name == "d.parquet":
        try:
            buffer = pa.BufferOutputStream()
            pq.write_table(pa.Table.from_pylist(lines), buffer)
            data = buffer.getvalue().to_pybytes()
        except (pa.ArrowException, AttributeError, TypeError, ValueError, OverflowError, NotImplementedError):
            name = "d.jsonl"  # Parquet has no such values
    return (name, data) if draw(st.integers(0, 4)) else (name, draw(bytes_of(data)))


@counts("rows")
def test_rows(count: int, here: Path) -> None:
    (here / "r.toml").write_text("steps = 1\n[verify]\nworkers = 1\n")
    ours = {"g.jsonl", "o.parquet", "o.parquet.dropped.jsonl", "e.json", "r.toml", *FORMATS}

    def check(example: tuple[tuple[str, bytes], list[str]]) -> None:
        (name, data), command = example
        empty(here, "r.toml")
        (here / name).write_bytes(data)
        if "d.jsonl" in command and name != "d.jsonl":
            (here / "d.jsonl").write_bytes(data)
        arguments = [*command[:2], name, *command[2:]] if command[0] == "data" else [*command, name]
        run(*arguments, may_write=here)
        assert {path.removeprefix("here/") for path in contents(here.parent)} <= {"beside/file", *ours}

    fuzz.fuzz(count, st.tuples(row_files(), st.sampled_from(READERS)), check)


# --- models -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three folders: `whole`, the shipped model cut to a layer of width 8; `sharded`; `adapters` on the first."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("models")
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "layer_types": ["full_attention"]}
    config = AutoConfig.from_pretrained(BASE, **sizes)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder / "whole")
    model.save_pretrained(folder / "sharded", max_shard_size=5000)
    get_peft_model(model, LoraConfig(r=2, target_modules="all-linear")).save_pretrained(folder / "adapters")
    for name in ("whole", "sharded"):
        for file in ("generation_config.json", "tokenizer.json", "tokenizer_config.json"):
            shutil.copy(BASE / file, folder / name)
    about = folder / "adapters" / "adapter_config.json"
    about.write_text(json.dumps(json.loads(about.read_text()) | {"base_model_name_or_path": str(folder / "whole")}))
    (folder / "adapters" / "README.md").unlink()
    return folder


USES = [
    *([["doctor", "--model", "m"]] * 12),
    [*EVAL, "--model", "m", "--benchmark", "d.jsonl", "--split", "train"],
    ["train", "r.toml", "--model.path", "m", "--data.source", "d.jsonl", "--steps", "0", "--run-dir", "run"],
    ["plan", "r.toml", "--model-shape", "m"],
]


@counts("models")
def test_models(count: int, here: Path, tiny: Path) -> None:
    (here / "r.toml").write_text("[data]\ncheck_gold = 0\n[verify]\nworkers = 1\n")
    (here / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    names = {kind.name: sorted(contents(kind)) for kind in tiny.iterdir()}
    harm = st.sampled_from(sorted(names)).flatmap(
        lambda kind: st.tuples(st.just(kind), harmed(tiny / kind, names[kind]))
    )

    def check(example: tuple[tuple[str, tuple[str, bytes | None]], list[str]]) -> None:
        (kind, (name, data)), command = example
        empty(here, "r.toml", "d.jsonl")
        shutil.copytree(tiny / kind, here / "m")
        put(here / "m" / name, data)
        before = contents(here / "m")
        run(*command, may_write=here)
        assert contents(here / "m") == before
        found = {path for path in contents(here.parent) if not path.startswith(("here/m/", "here/run/"))}
        assert found <= {"beside/file", "here/r.toml", "here/d.jsonl", "here/e.json"}

    fuzz.fuzz(count, st.tuples(harm, st.sampled_from(USES)), check)


def put(file: Path, data: bytes | None) -> None:
    if data is None:
        file.unlink()
    else:
        file.write_bytes(data)


# --- run directories --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Path:
    """A folder with a run of two steps, each with its checkpoint."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    recipe = {
        "steps": 2,
        "threads": 1,
        "run_dir": "run",
        "model": {"path": str(tiny / "whole")},
        "data": {"source": "d.jsonl", "check_gold": 0},
        "rollout": {"prompts": 2, "samples": 2, "max_tokens": 4},
        "verify": {"workers": 1},
        "checkpoint": {"every": 1, "keep": 9},
    }
    (folder / "r.toml").write_text(tomli_w.dumps(recipe))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("sieverl.display.plot.curve", without_picture)  # which also makes folders of Matplotlib's own
        said = run("train", "r.toml", may_write=folder)
        assert said.code == 0, said.err
    return folder


def reseal(checkpoint: Path) -> None:
    """A manifest that says of the files as they are that they are right."""
    files = [path for path in checkpoint.iterdir() if path.is_file() and path.name != manifest.MANIFEST]
    hashes = {path.name: manifest.digest(path) for path in files}
    (checkpoint / manifest.MANIFEST).write_text(json.dumps(hashes))


def without_picture(run_dir: Path) -> Path:
    return run_dir / "curve.png"


@counts("run_directories")
def test_run_directories(count: int, here: Path, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sieverl.display.plot.curve", without_picture)  # it is most of the time
    names = sorted(contents(trained / "run"))
    last = [name for name in names if name.startswith("checkpoints/step-2/")]
    harms = st.one_of(harmed(trained / "run", names), harmed(trained / "run", last))

    def check(example: tuple[tuple[str, bytes | None], bool, int]) -> None:
        (name, data), sealed, steps = example
        empty(here)
        shutil.copytree(trained, here, symlinks=True, dirs_exist_ok=True)
        (here / "run" / name).unlink()
        if data is not None:
            (here / "run" / name).write_bytes(data)
        if sealed and name in last:
            reseal(here / "run" / "checkpoints" / "step-2")
        before = contents(here / "run")
        said = run("train", "r.toml", "--steps", str(steps), may_write=here)
        nothing_lost(before, contents(here / "run"), said.code)

    fuzz.fuzz(count, st.tuples(harms, st.booleans(), st.sampled_from([2] * 9 + [3])), check)


def nothing_lost(before: dict[str, bytes], after: dict[str, bytes], code: int) -> None:
    """A refused run is as it was. One that goes on, from its first or second step, has all that came before."""
    if code != 0:
        assert {**after, ".lock": b""} == {**before, ".lock": b""}
        return
    early = [name for name in before if name.startswith(("checkpoints/step-1/", "rollouts/step-000001"))]
    assert {name: after.get(name) for name in early} == {name: before[name] for name in early}
    lost = [row for row in first_rows(before) if row not in first_rows(after)]
    assert not lost or after["metrics.damaged.jsonl"] == before["metrics.jsonl"]


def first_rows(files: dict[str, bytes]) -> list[Any]:
    """The rows of metrics up to the first step, as far as they are rows."""
    rows = []
    for line in files.get("metrics.jsonl", b"").split(b"\n"):
        with contextlib.suppress(ValueError):
            rows.append(json.loads(line))
    return [row for row in rows if isinstance(row, dict) and row.get("step") in (0, 1)]
