"""Verdicts that outlive the process: chunks, what decides them, and what is asked again."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from sieverl.run_dir.parts import Parts
from sieverl.types import Row, Status, Verdict
from sieverl.verify import kept
from sieverl.verify.kept import CHUNK, Pairs, chunk_keys, fingerprint, kept_verdicts, user_files

PAIRS: Pairs = [(str(n), {"answer": "1"}) for n in range(5)]


class Giver:
    """Rewards a response with its own number, and gives the status `status`; keeps what it was asked."""

    def __init__(self, status: Status = Status.INCORRECT, at: int | None = None) -> None:
        self.status, self.at, self.asked = status, at, list[str]()

    def __call__(self, pairs: Sequence[tuple[str, Row]]) -> list[Verdict]:
        for response, _ in pairs:
            if len(self.asked) == self.at:
                raise KeyboardInterrupt
            self.asked.append(response)
        return [Verdict(float(response) / 3, False, self.status, {"a": 0.1, "b": None}) for response, _ in pairs]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "CHUNK", 2)


def parts_of(folder: Path, pairs: Pairs = PAIRS, *settings: object) -> Parts:
    return Parts.of(folder / "out.jsonl", chunk_keys(pairs, *settings), lambda text: None)


def test_it_goes_on_behind_the_last_whole_chunk(tmp_path: Path) -> None:
    assert CHUNK > 2
    whole = Giver()(PAIRS)
    for at in range(5):
        giver, folder = Giver(at=at), tmp_path / str(at)
        with pytest.raises(KeyboardInterrupt):
            kept_verdicts(giver, PAIRS, parts_of(folder))
        again = Giver()
        found = kept_verdicts(again, PAIRS, parts_of(folder))
        assert again.asked == [str(n) for n in range(at // 2 * 2, 5)]
        assert found == whole
        assert [verdict.parts for verdict in found] == [verdict.parts for verdict in whole]


@pytest.mark.parametrize("status", [Status.VERIFIER_ERROR, Status.VERIFIER_TIMEOUT])
def test_what_the_machine_may_have_caused_is_asked_again(tmp_path: Path, status: Status) -> None:
    kept_verdicts(Giver(status), PAIRS, parts_of(tmp_path))
    for asked in (5, 0):
        giver = Giver()
        assert kept_verdicts(giver, PAIRS, parts_of(tmp_path)) == Giver()(PAIRS)
        assert len(giver.asked) == asked


def test_a_chunk_is_tied_to_its_rows_and_settings(tmp_path: Path) -> None:
    kept_verdicts(Giver(), PAIRS, parts_of(tmp_path))
    other = [*PAIRS[:2], ("2", {"answer": "2"}), *PAIRS[3:]]
    for pairs, settings, asked in ((PAIRS, (), 0), (other, (), 2), (PAIRS, (1.0,), 5)):
        giver = Giver()
        kept_verdicts(giver, pairs, parts_of(tmp_path, pairs, *settings))
        assert len(giver.asked) == asked


def test_a_short_file_keeps_nothing(tmp_path: Path) -> None:
    kept_verdicts(Giver(), PAIRS[:2], parts_of(tmp_path, PAIRS[:2]))
    assert not list(tmp_path.iterdir())


def test_a_fingerprint_knows_the_files_of_functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    package = tmp_path / "rewards"
    package.mkdir()
    for name in ("rewards/__init__.py", "rewards/deep.py", "mine.py"):
        (tmp_path / name).write_text("raise SystemExit('imported')\n")
    spec = {"name": "sum", "parts": [{"name": "mine.py:f"}, {"name": "rewards.deep:g", "weight": 2.0}]}
    assert {file.resolve() for file in user_files(spec)} == {tmp_path / "mine.py", package / "deep.py"}
    seen = {fingerprint(spec)}
    for name in ("mine.py", "rewards/deep.py"):
        (tmp_path / name).write_text("1\n")
        seen.add(fingerprint(spec))
    assert len(seen) == 3
    assert not any(name.startswith("rewards") for name in sys.modules), "nothing is imported to look at it"


@pytest.mark.parametrize("spec", [{"name": "math", "after": "A:"}, {"name": "no:thing"}, {"name": "a b:c", "x": [1]}])
def test_other_text_with_a_colon_is_no_file(spec: dict[str, object]) -> None:
    assert user_files(spec) == []


@pytest.mark.parametrize(
    "change", [{"reward": "1"}, {"reward": None}, {"correct": 1}, {"parts": {"a": "b"}}, {"parts": []}, {"status": []}]
)
def test_fuzz_a_kept_verdict_with_other_types_is_given_again(tmp_path: Path, change: dict[str, object]) -> None:
    parts = parts_of(tmp_path)
    first = kept_verdicts(Giver(), PAIRS, parts)
    saved = [kept.to_json(verdict) for verdict in first[:2]]
    parts.write(0, [saved[0] | change, saved[1]])
    giver = Giver()
    assert kept_verdicts(giver, PAIRS, parts) == first
    assert giver.asked == ["0", "1"], "of the five, those of the damaged chunk"
