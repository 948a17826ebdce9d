"""Read rows of local files: JSONL, JSON, Parquet, a directory of them, or a dataset that `datasets` saved to disk."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sieverl.errors import DataError, first_line
from sieverl.text import storable

SUFFIXES = (".jsonl", ".json", ".parquet")
DEEPEST = 100  # levels of lists and objects in a row; libraries and JSON itself give up at some hundreds
_SPLITS = ("train", "test", "validation", "valid", "val", "dev", "eval")


@dataclass(frozen=True)
class RawRow:
    """One row of a source: `where` is its file and line. `row` is None if it is malformed, as `problem` says."""

    where: str
    row: dict[str, object] | None
    problem: str = ""


class Dataset(Protocol):
    """What is used of a `datasets.Dataset`."""

    def iter(self, batch_size: int) -> Iterator[dict[str, list[object]]]: ...


def read_path(path: Path, split: str) -> Iterator[RawRow]:
    """The rows of a file or directory, in order. Raises DataError if it cannot be read."""
    if not path.exists():
        raise DataError(f"no such file: {path}; give a {', '.join(SUFFIXES)} file or a directory that holds some")
    if path.is_dir():
        yield from _read_directory(path, split)
    elif path.suffix.lower() in SUFFIXES:
        yield from _READERS[path.suffix.lower()](path)
    else:
        raise DataError(f"{path}: cannot read {path.suffix or 'a file without suffix'}; allowed: {', '.join(SUFFIXES)}")


def dataset_rows(dataset: Dataset, where: str) -> Iterator[RawRow]:
    """The rows of a `datasets.Dataset`."""
    number = 0
    for batch in dataset.iter(1000):
        for values in zip(*batch.values(), strict=True):
            number += 1
            yield RawRow(f"{where}: row {number}", dict(zip(batch, values, strict=True)))


def _parse(text: bytes, where: str) -> RawRow:
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        return RawRow(where, None, f"not JSON ({error or 'nested too deeply'})")
    return _checked(row, where)


def _checked(row: object, where: str) -> RawRow:
    """The row of a JSON value, without the lone surrogates that JSON can write (`"\\ud800"`) and nothing can store."""
    if not isinstance(row, dict):
        return RawRow(where, None, f"a JSON object is expected, not {type(row).__name__}")
    try:
        return RawRow(where, {storable(key): _clean(value, DEEPEST) for key, value in row.items()})
    except RecursionError as error:
        return RawRow(where, None, str(error))


def _clean(value: object, levels: int) -> object:
    if isinstance(value, str):
        return storable(value)
    if not isinstance(value, dict | list):
        return value
    if not levels:
        raise RecursionError(f"nested too deeply: more than {DEEPEST} levels")
    if isinstance(value, list):
        return [_clean(item, levels - 1) for item in value]
    return {storable(key): _clean(item, levels - 1) for key, item in value.items()}


def _lines(path: Path) -> Iterator[RawRow]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield _parse(line, f"{path}:{number}")


def _json(path: Path) -> Iterator[RawRow]:
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        yield from _lines(path)  # some .json files hold one object per line
        return
    if isinstance(content, dict) and isinstance(content.get("data"), list):
        content = content["data"]
    for number, row in enumerate(content if isinstance(content, list) else [content], 1):
        yield _checked(row, f"{path}: row {number}")


def _parquet(path: Path) -> Iterator[RawRow]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        for batch in pq.ParquetFile(path).iter_batches(4096):
            for row in batch.to_pylist():
                number += 1
                yield RawRow(f"{path}: row {number}", row)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: cannot be read as Parquet after row {number} ({first_line(error)})") from error


_READERS: dict[str, Callable[[Path], Iterator[RawRow]]] = {".jsonl": _lines, ".json": _json, ".parquet": _parquet}


def _read_directory(path: Path, split: str) -> Iterator[RawRow]:
    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        yield from _saved(path, split)
        return
    files = sorted(
        f
        for f in path.rglob("*")
        if f.suffix.lower() in SUFFIXES
        and not f.name.endswith(".dropped.jsonl")
        and not any(part.startswith(".") for part in f.relative_to(path).parts)
    )
    if not files:
        raise DataError(f"{path}: no {', '.join(SUFFIXES)} file in this directory")
    # Of files named after splits (train-00000-of-00002.parquet) one split is read; of files with other names, all.
    named = {f: next((s for s in _SPLITS if f.stem.lower().startswith(s)), None) for f in files}
    if any(named.values()):
        files = [f for f in files if named[f] and f.stem.lower().startswith(split.lower())]
        if not files:
            found = ", ".join(sorted({name for name in named.values() if name}))
            raise DataError(f"{path}: no split {split!r}; there is: {found}")
    for file in files:
        yield from read_path(file, split)


def _saved(path: Path, split: str) -> Iterator[RawRow]:
    import datasets

    try:
        dataset = datasets.load_from_disk(str(path))
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path}: cannot be read as a dataset saved to disk ({first_line(error)})") from error
    if isinstance(dataset, datasets.DatasetDict):
        dataset = dataset[pick_split(split, dataset.keys(), str(path))]
    yield from dataset_rows(dataset, str(path))


def pick_split(split: str, found: Iterable[str], where: str) -> str:
    """Return `split`, or raise a DataError that lists the splits."""
    if split not in (names := list(found)):
        raise DataError(f"{where}: no split {split!r}; there is: {', '.join(names)}")
    return split
