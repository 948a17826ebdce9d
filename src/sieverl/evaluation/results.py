"""Result files of `sieverl eval`: written, read, and compared with the difference paired by prompt."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np
from pydantic import BaseModel, Field, ValidationError, model_validator

from sieverl.errors import DataError, first_line
from sieverl.evaluation.measure import Record, Summary
from sieverl.evaluation.statistics import Interval, paired_interval, pass_at
from sieverl.files import write_text
from sieverl.types import FloatArray, JsonObject, Prompt

PARTS = ("benchmark", "model", "sampling", "prompt", "verifier", "versions", "scores", "shares", "rows")


class ResultRow(TypedDict):
    """One prompt: which it was (place, hash of text and gold answer), and its samples."""

    id: int
    prompt: str
    correct: int
    majority: bool
    lengths: Sequence[int]
    statuses: Sequence[str]
    answers: Sequence[str | None]


class Score(TypedDict):
    """A mean and its 95% interval."""

    value: float
    low: float
    high: float


class Measured(TypedDict):
    """What was measured of a benchmark: the numbers, and a row a prompt."""

    benchmark: JsonObject
    verifier: JsonObject
    scores: Mapping[str, Score]
    shares: Mapping[str, float]
    rows: Sequence[ResultRow]


class Result(Measured):
    """A result file: what was measured, and the other settings that it depends on."""

    model: JsonObject
    sampling: JsonObject
    prompt: JsonObject
    versions: Mapping[str, str | None]


class _Row(BaseModel):
    id: int
    prompt: str
    correct: int = Field(ge=0)
    majority: bool
    lengths: list[int]


class _Benchmark(BaseModel):
    name: str
    prompts: int


class _Model(BaseModel):
    name: str
    dtype: str
    sha256: str


class _Sampling(BaseModel):
    k: int = Field(ge=1)


class _Compared(BaseModel):
    """What a comparison takes from a result file, which anybody may have edited."""

    benchmark: _Benchmark
    model: _Model
    sampling: _Sampling
    prompt: JsonObject
    verifier: JsonObject
    versions: JsonObject
    rows: list[_Row]

    @model_validator(mode="after")
    def _same_k(self) -> _Compared:
        for row in self.rows:
            if len(row.lengths) != self.sampling.k or row.correct > self.sampling.k:
                raise ValueError(f"the prompt {row.id} does not have the {self.sampling.k} samples of sampling.k")
        return self


def row_of(prompt: Prompt, record: Record) -> ResultRow:
    """The row of one prompt."""
    return {
        "id": prompt.id,
        "prompt": sha256(f"{prompt.text}\0{prompt.row.get('answer')}")[:16],
        "correct": sum(record.correct),
        "majority": record.majority,
        "lengths": record.lengths,
        "statuses": record.statuses,
        "answers": [answer and answer[:200] for answer in record.answers],
    }


def scores_of(summary: Summary) -> dict[str, Score]:
    """The scores of a summary by name."""
    return {name: Score(value=value, low=low, high=high) for name, (value, low, high) in summary.scores.items()}


def sha256(text: object) -> str:
    """SHA-256 of a string, or of the JSON of anything else."""
    return hashlib.sha256((text if isinstance(text, str) else json.dumps(text)).encode()).hexdigest()


def write(path: Path, result: Result) -> None:
    """A result as JSON, whole or not at all: settings and numbers first, then one line a prompt."""
    settings = {part: value for part, value in result.items() if part != "rows"}
    head = json.dumps({part: settings[part] for part in PARTS[:-1]}, indent=2, default=str)
    rows = ",\n".join(f"    {json.dumps(row)}" for row in result["rows"])
    write_text(path, f'{head[:-2]},\n  "rows": [\n{rows}\n  ]\n}}\n')


def read(path: Path) -> Result:
    """A result file. Raises DataError for anything else."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"there is no result file {path}; `sieverl eval --output {path}` writes one") from error
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as JSON: {first_line(error)}") from error
    if missing := [part for part in PARTS if not isinstance(result, dict) or part not in result]:
        raise DataError(f"{path} is no result of `sieverl eval`: it has no {missing[0]}")
    try:
        _Compared.model_validate(result, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        raise DataError(
            f"{path} is no result of `sieverl eval`: {'.'.join(map(str, first['loc'])) or 'rows'}: {first['msg']}"
        ) from error
    found: Result = result
    return found


def common(a: Result, b: Result) -> list[tuple[ResultRow, ResultRow]]:
    """The rows of both results, side by side, whose prompts (place, text and gold answer) are the same."""
    theirs = {(row["id"], row["prompt"]): row for row in b["rows"]}
    return [(row, theirs[key]) for row in a["rows"] if (key := (row["id"], row["prompt"])) in theirs]


def paired(
    rows: Sequence[tuple[ResultRow, ResultRow]], k_a: int, k_b: int
) -> dict[str, tuple[float, float, Interval | None]]:
    """Mean of A, mean of B and the paired interval of B - A (None: no prompt differs); maj@k only with the same k."""

    def pair(name: str, a_P: FloatArray, b_P: FloatArray) -> dict[str, tuple[float, float, Interval | None]]:
        interval = paired_interval(a_P, b_P) if (a_P != b_P).any() else None
        return {name: (float(a_P.mean()), float(b_P.mean()), interval)}

    a_P, b_P = (np.array([row[side]["correct"] for row in rows]) for side in (0, 1))
    found = pair("avg", a_P / k_a, b_P / k_b)
    for draws in sorted({2**i for i in range(1, min(k_a, k_b).bit_length())} | ({min(k_a, k_b)} - {1})):
        found |= pair(f"pass@{draws}", pass_at(a_P, k_a, draws), pass_at(b_P, k_b, draws))
    if k_a == k_b > 1:
        major = [np.array([row[side]["majority"] for row in rows], dtype=float) for side in (0, 1)]
        found |= pair(f"maj@{k_a}", major[0], major[1])
    return found


def differences(a: Result, b: Result) -> Iterator[str]:
    """What was not the same: sampling, prompt form, verifier, precision, versions, the source of the prompts."""
    pairs: list[tuple[Mapping[str, object], Mapping[str, object]]] = [
        (a["sampling"], b["sampling"]),
        (a["prompt"], b["prompt"]),
        (a["verifier"], b["verifier"]),
        (a["versions"], b["versions"]),
    ]
    for one, other in pairs:
        for key in sorted({*one, *other} - {"example"}):
            if one.get(key) != other.get(key):
                yield f"{key} {_short(one.get(key))} / {_short(other.get(key))}"
    if a["model"]["dtype"] != b["model"]["dtype"]:
        yield f"dtype {a['model']['dtype']} / {b['model']['dtype']}"


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
