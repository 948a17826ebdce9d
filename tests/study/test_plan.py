"""Study files: what they mean, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import ROOT

from sieverl.errors import UsageError
from sieverl.study.plan import cells_of, read_study
from sieverl.study.process import command_of, slots
from sieverl.study.table import arm_table

GOOD = """
recipe = "demo"
seeds = [3, 1]
baseline = "grpo"
columns = ["policy/entropy"]

[settings]
steps = 5
train = { lr = 1e-3 }

[arms.grpo]
algorithm = "grpo"

[arms.raft]
algorithm = "raft"
train = { minibatches = 2 }

[[claims]]
text = "t"
compare = [{ arm = "raft", expect = "higher" }]
"""


def written(folder: Path, text: str) -> Path:
    (folder / "s.toml").write_text(text)
    return folder / "s.toml"


def test_cells_are_arms_by_seeds_with_the_tables_on_top_of_each_other(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD)
    cells = cells_of(read_study(path), Path("out"))
    assert [cell.name for cell in cells] == ["grpo-3", "raft-3", "grpo-1", "raft-1"]
    raft = cells[1].recipe
    assert (raft.algorithm, raft.seed, raft.steps, raft.train.lr, raft.train.minibatches) == ("raft", 3, 5, 1e-3, 2)
    assert raft.data.source == "reasoning_gym:basic_arithmetic", "of the demo's recipe"
    assert raft.run_dir == "out/runs/raft-3"
    assert {cell.recipe.threads for cell in cells} == {1}


def test_the_digest_is_of_what_the_numbers_depend_on(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD)
    one, other = (cells_of(read_study(path), Path(output))[0] for output in ("a", "b"))
    assert one.digest == other.digest
    path.write_text(GOOD.replace("lr = 1e-3", "lr = 2e-3"))
    assert cells_of(read_study(path), Path("a"))[0].digest != one.digest
    (own := tmp_path / "own.py").write_text("a = 1")
    path.write_text(GOOD.replace('"raft"\ntrain', f'"{own}:raft"\ntrain'))
    before = cells_of(read_study(path), Path("a"))[1].digest
    cell = cells_of(read_study(path), Path("a"))[1]
    assert cell.digest == before
    own.write_text("a = 2")
    assert cells_of(read_study(path), Path("a"))[1].digest != before, "its code is another"
    assert cell.digest == before, "a run has the code that it was begun with"


def test_a_file_of_code_or_data_that_is_changed_makes_other_settings(tmp_path: Path) -> None:
    (folder := tmp_path / "zoë").mkdir()
    own, data = folder / "own.py", folder / "train.jsonl"
    settings = f'"{own}:raft"\ndata = {{ source = "{data}" }}\ntrain'
    path = written(tmp_path, GOOD.replace('"raft"\ntrain', settings))
    found = set()
    for code, rows in (("a = 1", "{}"), ("a = 2", "{}"), ("a = 2", "{} ")):
        own.write_text(code)
        data.write_text(rows)
        found.add(cells_of(read_study(path), Path("a"))[1].digest)
    assert len(found) == 3


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('baseline = "grpo"', 'baseline = "grop"', "baseline = 'grop' is no arm. Did you mean grpo?"),
        ('arm = "raft", e', 'arm = "rfat", e', "claims.0.compare.0.arm = 'rfat' is no arm. Did you mean raft?"),
        ('"raft", e', '"grpo", e', "claims.0.compare.0 compares grpo with itself"),
        ('"higher"', '"same"', "claims.0.compare.0 expects 'same' and needs a margin"),
        ('"higher"', '"better"', "claims.0.compare.0.expect: input should be 'higher', 'lower', 'same', "),
        ("seeds = [3, 1]", "seeds = [3, 3]", "seeds has 3 twice"),
        ("seeds = [3, 1]", "seeds = []", "seeds: list should have at least 1 item"),
        ("seeds =", "sedes =", "there is no key 'sedes'. Did you mean seeds?"),
        ("steps = 5", "seed = 5", "seed is set by the study"),
        ("[arms.raft]", '[arms."a b/c"]', "arms.'a b/c' is no name for files"),
        ("[settings]", "[settings", "is not valid TOML"),
    ],
)
def test_a_mistake_is_said_with_the_key(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in GOOD
    path = written(tmp_path, GOOD.replace(old, new, 1))
    with pytest.raises(UsageError) as error:
        read_study(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)


def test_a_key_that_is_none_of_the_recipe_is_said_with_the_arm(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD.replace("minibatches = 2", "minibatch = 2"))
    with pytest.raises(UsageError, match=r"arms\.raft: there is no key 'train\.minibatch'.*minibatches"):
        cells_of(read_study(path), Path("out"))


@pytest.mark.parametrize(
    ("column", "settings"),
    [
        ('"eval/heldout/avg@4"', "evaluate = { samples = 2 }"),
        ('"eval/mine/avg@4"', ""),
        ('"eval/heldout/kl_ref"', "evaluate = { kl_prompts = 0 }"),
        ('{ steps = "all", until = { metric = "eval/heldout/avg@2", reaches = 0.5 } }', ""),
    ],
)
def test_a_score_that_no_run_would_have_is_refused_before_the_first(tmp_path: Path, column: str, settings: str) -> None:
    text = GOOD.replace('"policy/entropy"', column).replace("steps = 5", f"steps = 5\n{settings}")
    with pytest.raises(
        UsageError, match=r"eval/\w+/\S+ is asked for, and arms\.grpo evaluates heldout with \d samples"
    ):
        cells_of(read_study(written(tmp_path, text)), Path("out"))


def test_what_no_run_would_have_is_refused_before_the_first(tmp_path: Path) -> None:
    for column, settings, said in (
        ('"policy/entropy"', "evaluate = { source = '', every = 0 }", "the held-out accuracy is asked for, and arms.g"),
        ('{ metric = "policy/entropy", steps = [1, 6] }', "", "policy/entropy, steps 1 to 6 is asked for, and arms.g"),
    ):
        text = GOOD.replace('"policy/entropy"', column).replace("steps = 5", f"steps = 5\n{settings}")
        with pytest.raises(UsageError, match=said):
            cells_of(read_study(written(tmp_path, text)), Path("out"))
    backwards = GOOD.replace('"policy/entropy"', '{ metric = "policy/entropy", steps = [3, 2] }')
    with pytest.raises(UsageError, match=r"steps are \[first, last\], such as \[1, 50\], not \[3, 2\]"):
        read_study(written(tmp_path, backwards))


def test_a_study_without_a_baseline_has_no_differences(tmp_path: Path) -> None:
    alone = GOOD.replace('baseline = "grpo"\n', "").replace('arm = "raft", e', 'arm = "raft", against = "grpo", e')
    study = read_study(written(tmp_path, alone))
    assert "difference" not in arm_table(study, [])[0]
    with pytest.raises(UsageError, match=r"compare\.0 says no arm to compare raft with; set against, or baseline"):
        read_study(written(tmp_path, GOOD.replace('baseline = "grpo"\n', "")))


def test_code_of_its_own_is_part_of_what_a_cell_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.py").write_text("a = 1")
    home, parts = "~/mine.py:a", '[{ name = "math", weight = 1.0 }, { name = "~/mine.py:a", weight = 0.5 }]'
    for old, new in (
        ('algorithm = "raft"', f'algorithm = "{home}"'),
        ("steps = 5", f'steps = 5\nverify = {{ name = "{home}" }}'),
        ("steps = 5", f'steps = 5\nverify = {{ name = "sum", parts = {parts} }}'),
    ):
        digests = []
        for code in ("a = 1", "a = 2"):
            (tmp_path / "mine.py").write_text(code)
            digests.append(cells_of(read_study(written(tmp_path, GOOD.replace(old, new, 1))), Path("out"))[1].digest)
        assert digests[0] != digests[1]


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(UsageError, match=r"the study nowhere\.toml cannot be read: .*No such file"):
        read_study(Path("nowhere.toml"))


def test_a_command_of_its_own_names_the_recipe(tmp_path: Path) -> None:
    study = read_study(written(tmp_path, GOOD))
    own = study.model_copy(update={"command": ["torchrun", "-m", "sieverl", "train", "{recipe}"]})
    assert command_of(own, Path("r.toml"))[-1] == "r.toml"
    with pytest.raises(UsageError, match=r"does not say \{recipe\}"):
        command_of(study.model_copy(update={"command": ["true"]}), Path("r.toml"))


def test_as_many_at_a_time_as_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, GOOD)
    study = read_study(path)
    cells = cells_of(study, tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert slots(study, cells, gpus=0, cores=4) == [{}] * 4
    assert slots(study, cells, gpus=2, cores=4) == [{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "1"}]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert slots(study, cells, gpus=2, cores=4)[1] == {"CUDA_VISIBLE_DEVICES": "6"}
    assert slots(study.model_copy(update={"command": ["torchrun", "{recipe}"]}), cells, gpus=8, cores=64) == [{}]
    three = study.model_copy(update={"processes": 3})
    assert slots(three, cells, gpus=0, cores=1) == [{}] * 3
    assert [place["CUDA_VISIBLE_DEVICES"] for place in slots(three, cells, gpus=2, cores=4)] == ["4", "6", "4"]


def test_several_files_are_laid_on_top_of_each_other(tmp_path: Path) -> None:
    (under := tmp_path / "under.toml").write_text(GOOD)
    more = 'about = "again"\nsettings = { steps = 7 }\narms = { grpo = { train = { lr = 2e-3 } } }\nseeds = [9]'
    study = read_study(under, written(tmp_path, more))
    cells = cells_of(study, tmp_path)
    assert [(c.name, c.recipe.steps, c.recipe.train.lr) for c in cells] == [("grpo-9", 7, 2e-3), ("raft-9", 7, 1e-3)]
    assert study.claims[0].text == "t"
    with pytest.raises(UsageError, match=r"under\.toml \+ .*s\.toml: there is no key 'sedes'"):
        read_study(under, written(tmp_path, "sedes = [9]"))


STUDIES = ROOT / "studies"
ON_TOP = {"hasty": ["minimalist", "hasty"], "hasty-rates": ["minimalist-rates", "hasty-rates"]}


@pytest.mark.parametrize("name", [path.stem for path in sorted(STUDIES.glob("*.toml"))])
def test_the_studies_here_are_studies(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # own algorithms are named from there
    study = read_study(*(STUDIES / f"{part}.toml" for part in ON_TOP.get(name, [name])))
    assert cells_of(study, Path("out"))
    assert study.about
