"""An evaluation that is cut off goes on from its batches, to the same bytes; nothing of other settings gets in."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import BASE
from fakes import Reciting, environment

from sieverl.cli import main
from sieverl.data import Template
from sieverl.data.chat import Style
from sieverl.engines.builtin import BuiltinEngine
from sieverl.engines.protocol import OnDone, Request, SamplingParams
from sieverl.evaluation.kept import KeptSampling, kept_sampling
from sieverl.evaluation.measure import Measurement, measure
from sieverl.evaluation.subject import Subject
from sieverl.rollout.environment import PromptSet
from sieverl.run_dir.parts import Parts
from sieverl.types import Prompt, Rollout, VerifierSpec
from sieverl.verify import Pool

ANSWERS = ["4", "7", "1", "9", "5"]
SAID = {i: [f"so {answer}\n", "so 4.0\n", "6" * 50] for i, answer in enumerate(ANSWERS)}
BATCHES = [[0, 3], [1], [2, 4]]  # out of order, as those of prompts of different lengths are
NUMBER = {"name": "number"}


class Cut(Reciting):
    """Presses Ctrl-C in the batch number `at`."""

    def __init__(self, at: int | None = None) -> None:
        super().__init__(SAID)
        self.at, self.batches = at, 0

    def sample(
        self, requests: Sequence[Request], sampling: SamplingParams, on_done: OnDone | None = None
    ) -> list[Rollout]:
        self.batches += 1
        if self.batches == self.at:
            raise KeyboardInterrupt
        return super().sample(requests, sampling, on_done)


def parts_of(output: Path, said: list[str] | None = None) -> Parts:
    return Parts.of(output, ["a" * 64, "b" * 64, "c" * 64], (said if said is not None else []).append)


def evaluate(
    output: Path, at: int | None = None, said: list[str] | None = None, spec: VerifierSpec = NUMBER
) -> tuple[Measurement | None, int, int]:
    """What was measured (None if cut), batches asked of the engine, responses that ticked."""
    engine, ticks = Cut(at), list[int]()
    where, prompts = environment(engine, ANSWERS)
    sample = KeptSampling(parts_of(output, said), BATCHES, spec, lambda: ticks.append(1))
    with Pool(spec) as pool:
        try:
            found = measure(replace(where, pool=pool), prompts, 3, spec, sample)
        except KeyboardInterrupt:
            found = None
    return found, engine.batches, len(ticks)


def test_cut_in_each_batch_in_turn_it_measures_the_same(tmp_path: Path) -> None:
    plain = measure(*environment(Reciting(SAID), ANSWERS), 3, NUMBER)
    whole, batches, ticks = evaluate(tmp_path / "whole.json")
    assert whole == plain, "keeping changes nothing"
    assert (batches, ticks) == (3, 15)
    for at in range(1, 4):
        output = tmp_path / f"{at}.json"
        assert evaluate(output, at)[0] is None
        assert len(parts_of(output).kept()) == at - 1
        found, batches, ticks = evaluate(output)
        assert found is not None
        assert (found.records, found.summary) == (plain.records, plain.summary)
        assert [s.text for s in found.scored] == [s.text for s in plain.scored]
        assert (batches, ticks) == (4 - at, 15), "what is there is not sampled again, but counts"


def test_cut_again_and_again_each_batch_is_sampled_once(tmp_path: Path) -> None:
    output = tmp_path / "x.json"
    for done in range(3):
        assert evaluate(output, at=2)[0] is None or done == 2
        assert len(parts_of(output).kept()) == done + 1
    assert evaluate(output)[1] == 0


def test_a_damaged_part_is_sampled_again_by_name(tmp_path: Path) -> None:
    output, said = tmp_path / "x.json", list[str]()
    whole = evaluate(output)[0]
    first, second, third = (parts_of(output).file(number) for number in range(3))
    first.write_bytes(first.read_bytes().replace(b"true", b"null", 1))
    second.write_bytes(second.read_bytes()[:100])
    found, batches, _ = evaluate(output, said=said)
    assert found is not None
    assert whole is not None
    assert found.records == whole.records
    assert batches == 2
    assert [f"{path} is damaged" in line for path, line in zip((first, second), said, strict=True)] == [True, True]
    shutil.copy(third, first)
    assert evaluate(output, said=said)[1] == 1
    assert f"{first} is damaged (it has responses to other prompts)" in said[-1]


def test_with_another_verifier_responses_stay_and_verdicts_are_given_anew(tmp_path: Path) -> None:
    reward = "def f(response, row):\n    return {}\n"
    spec = {"name": f"{tmp_path}/mine.py:f"}
    for value in (0.0, 1.0):
        (tmp_path / "mine.py").write_text(reward.format(value))
        found, batches, _ = evaluate(tmp_path / "x.json", spec=spec)
        assert found is not None
        assert found.summary.scores["avg@3"][0] == pytest.approx(value * 2 / 3)  # the third one is truncated
    assert batches == 0


def test_what_a_broken_verifier_said_is_asked_again(tmp_path: Path) -> None:
    """The function reads a file that is not there at first, so verdicts are errors."""
    (tmp_path / "mine.py").write_text(f"def f(response, row):\n    return float(open('{tmp_path}/reward').read())\n")
    spec = {"name": f"{tmp_path}/mine.py:f"}
    with pytest.raises(ValueError, match="every answer of the verifier was an error"):
        evaluate(tmp_path / "x.json", spec=spec)
    (tmp_path / "reward").write_text("1.0")
    found, batches, _ = evaluate(tmp_path / "x.json", spec=spec)
    assert found is not None
    assert (batches, found.summary.shares["verifier_error"]) == (0, 0.0)


# --- what decides a part ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def subject() -> Subject:
    return load("base", str(BASE))


def load(name: str, path: str, dtype: str = "float32", style: Style = "auto") -> Subject:
    return Subject.load(name, path, dtype, 4, Template(style, None, None))


def keys(
    subject: Subject, sampling: SamplingParams, seed: int = 0, samples: int = 2, texts: Sequence[str] = "abcde"
) -> list[str]:
    prompts = [Prompt(i, text, {"answer": "1"}) for i, text in enumerate(texts)]
    tokens = [subject.policy.tokenizer.encode(text) for text in texts]
    plan = kept_sampling(
        subject, PromptSet(prompts, tokens, sampling, seed), samples, NUMBER, Path("x.json"), lambda text: None
    )
    return list(plan.parts.keys)


def test_a_part_is_tied_to_all_that_decides_its_responses(subject: Subject, tmp_path: Path) -> None:
    given = SamplingParams(8, (1,))
    ours = keys(subject, given)
    assert len(ours) == len(set(ours)) == 3
    moved = load("other", str(shutil.copytree(BASE, tmp_path / "moved")))
    assert keys(moved, given) == ours, "where the model lies decides nothing"
    assert keys(subject, given, texts="abcdef")[:2] == ours[:2], "a longer benchmark shares its first batches"
    config = json.loads((tmp_path / "moved" / "config.json").read_text())
    config["rms_norm_eps"] = 0.1
    (tmp_path / "moved" / "config.json").write_text(json.dumps(config))
    with_weights = load("base", str(BASE))
    with_weights.policy.head.weight.data[0, 0] += 1
    others = [
        keys(subject, given, seed=1),
        keys(subject, given, samples=1),
        keys(subject, replace(given, max_tokens=9)),
        keys(subject, replace(given, temperature=0.5)),
        keys(subject, replace(given, top_p=0.9)),
        keys(subject, replace(given, top_k=3)),
        keys(subject, replace(given, eos=(2,))),
        keys(subject, given, texts="bcdea"),
        keys(replace(subject, engine=BuiltinEngine(subject.policy, 6)), given),
        keys(load("base", str(BASE), "float64"), given),
        keys(load("moved", str(tmp_path / "moved")), given),
        keys(with_weights, given),
    ]
    for number, other in enumerate(others):
        assert not set(ours) & set(other), number


# --- the command --------------------------------------------------------------------------------------


def test_of_several_benchmarks_the_finished_ones_are_not_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"{n}+1", "answer": str(n + 1)} for n in range(3)]
    for name in "ab":
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    generate, sampled = BuiltinEngine._generate, list[int]()

    def counted(self: BuiltinEngine, requests: Sequence[Request], *rest: object) -> None:
        sampled.append(len(requests))
        if len(sampled) == cut:
            raise KeyboardInterrupt
        generate(self, requests, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(BuiltinEngine, "_generate", counted)
    options = ["--model", "base", "--benchmark", "a.jsonl,b.jsonl", "-k", "1", "--max-tokens", "4"]
    options += ["--max-num-seqs", "2", "--verifier", "number"]
    cut = 4
    assert main(["eval", *options]) == 130
    first = Path("eval-a.json").read_bytes()
    said = capsys.readouterr()
    assert "Traceback" not in said.out + said.err
    sampled, cut = [], 0
    assert main(["eval", *options]) == 0
    assert sampled == [1]
    assert "going on from 1 of 2 parts in eval-b.json.parts" in capsys.readouterr().out
    assert sorted(path.name for path in Path().iterdir()) == ["a.jsonl", "b.jsonl", "eval-a.json", "eval-b.json"]
    assert Path("eval-a.json").read_bytes() == first
    sampled = []
    assert main(["eval", *options]) == 0, "an evaluation that ended is not replaced"
    assert sampled == [2, 1, 2, 1]
    for name in "ab":
        assert Path(f"eval-{name}.2.json").read_bytes() == Path(f"eval-{name}.json").read_bytes()
