"""Result files of `sieverl eval`: written, shown, and compared with the difference paired by prompt."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sieverl.errors import DataError
from sieverl.evaluation.measure import Record
from sieverl.evaluation.statistics import Interval, paired_interval, pass_at
from sieverl.files import write_text
from sieverl.types import Array, Prompt

Result = Mapping[str, Any]
PARTS = ("benchmark", "model", "sampling", "prompt", "verifier", "versions", "scores", "shares", "rows")


def row_of(prompt: Prompt, record: Record) -> dict[str, Any]:
    """What is kept of one prompt: which it was (place, hash of text and gold answer) and what became of its samples."""
    return {
        "id": prompt.id,
        "prompt": sha256(f"{prompt.text}\0{prompt.row.get('answer')}")[:16],
        "correct": sum(record.correct),
        "majority": record.majority,
        "lengths": record.lengths,
        "statuses": record.statuses,
        "answers": [answer and answer[:200] for answer in record.answers],
    }


def sha256(text: Any) -> str:
    """SHA-256 of a text (of anything else as JSON)."""
    return hashlib.sha256((text if isinstance(text, str) else json.dumps(text)).encode()).hexdigest()


def write(path: Path, result: Result) -> None:
    """A result as JSON, whole or not at all: settings and numbers first, then one line a prompt."""
    head = json.dumps({part: result[part] for part in PARTS if part != "rows"}, indent=2, default=str)
    rows = ",\n".join(f"    {json.dumps(row)}" for row in result["rows"])
    write_text(path, f'{head[:-2]},\n  "rows": [\n{rows}\n  ]\n}}\n')


def read(path: Path) -> Result:
    """A result file. Raises DataError for anything else."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"there is no result file {path}; `sieverl eval --output {path}` writes one") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON: {error}") from error
    if missing := [part for part in PARTS if not isinstance(result, dict) or part not in result]:
        raise DataError(f"{path} is no result of `sieverl eval`: it has no {missing[0]}")
    return dict(result)


def common(a: Result, b: Result) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """The rows of both results, side by side, whose prompts (place, text and gold answer) are the same."""
    theirs = {(row["id"], row["prompt"]): row for row in b["rows"]}
    return [(row, theirs[key]) for row in a["rows"] if (key := (row["id"], row["prompt"])) in theirs]


def paired(
    rows: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]], k_a: int, k_b: int
) -> dict[str, tuple[float, float, Interval | None]]:
    """Mean of A, mean of B and the paired interval of B - A (None: no prompt differs); maj@k only with the same k."""

    def pair(name: str, a_P: Array, b_P: Array) -> dict[str, tuple[float, float, Interval | None]]:
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
    for part in ("sampling", "prompt", "verifier", "versions"):
        for key in sorted({*a[part], *b[part]} - {"example"}):
            if a[part].get(key) != b[part].get(key):
                yield f"{key} {_short(a[part].get(key))} / {_short(b[part].get(key))}"
    if a["model"]["dtype"] != b["model"]["dtype"]:
        yield f"dtype {a['model']['dtype']} / {b['model']['dtype']}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
