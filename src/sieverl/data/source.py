"""From a name, a path or a Hub id to prompts with gold answers."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from sieverl.data.local import Raw, read_path
from sieverl.data.locate import DatasetRef, locate
from sieverl.data.rows import Dropped, _prompts
from sieverl.errors import DataError, UsageError
from sieverl.types import Prompt


@dataclass(frozen=True)
class Loaded:
    """The prompts of a source, the rows that are none, and where it all came from (path, or Hub id and commit)."""

    prompts: list[Prompt]
    dropped: list[Dropped]
    origin: Mapping[str, Any]


def load_prompts(
    source: str,
    *,
    columns: Mapping[str, str] | None = None,
    split: str = "train",
    limit: int | None = None,
    options: Mapping[str, Any] | None = None,
) -> list[Prompt]:
    """The prompts of a source, each with its gold answer as text in `row["answer"]`; every row must be good.

    `source` is a JSONL, JSON or Parquet file, a directory of them or a dataset saved to disk; `reasoning_gym:TASK`; a
    name of `SOURCES`, alone or with a local copy (`gsm8k@copy.jsonl`) or a revision (`gsm8k@COMMIT`); or a Hub id
    `org/name[:config][@revision]`. `columns` says which column is the `prompt` and which the `answer` (dots reach
    inside), `limit` reads the first rows only. `options` are those of the reasoning-gym task, or `path`, `revision`,
    `config`, `extract` (how the answer is read out of its column) and `bad_rows` (`stop`, or `drop` with a warning).
    Raises DataError for data, UsageError for options.

    >>> load_prompts("reasoning_gym:chain_sum", options={"seed": 1, "size": 2, "prompt": "metadata.expression"})[0].text
    '4 - 1 - 7'
    """
    loaded = read(source, columns=columns, split=split, limit=limit, options=options)
    if loaded.dropped:
        first, more = loaded.dropped[0], len(loaded.dropped) - 1
        found = f"{first.where}: {first.detail}{f' ({more} more bad)' if more else ''}"
        if (options or {}).get("bad_rows") != "drop":
            raise DataError(
                f"{found}; repair it, leave bad rows out with the data option bad_rows = drop, or let "
                f"`sieverl data prepare {source} --output FILE.parquet` leave them out and list them"
            )
        logging.getLogger(__name__).warning("%s; left out", found)
    return loaded.prompts


def read(
    source: str,
    *,
    columns: Mapping[str, str] | None = None,
    split: str = "train",
    limit: int | None = None,
    options: Mapping[str, Any] | None = None,
) -> Loaded:
    """As `load_prompts`, but rows that cannot be used come back beside the prompts instead of as an error.

    Raises DataError when nothing can be read, a column is missing, or no row at all has a prompt and an answer.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"limit is {limit}; it must be at least 1 row")
    if wrong := sorted(set(columns or {}) - {"prompt", "answer"}):
        raise UsageError(f"unknown column role {wrong[0]!r}; allowed: prompt=COLUMN, answer=COLUMN")
    place = locate(source, options or {})
    if place.task is not None:
        from sieverl.data import gym

        prompts = list(islice(gym.prompts(place.task, place.options, columns or {}), limit))
        origin = {"source": source, "split": split, "options": dict(place.options)}
        return Loaded(prompts, [], {**origin, "rows": len(prompts)})
    raws, origin = _rows(place, split)
    raws = list(islice(raws, limit))
    prompts, dropped = _prompts(raws, place, columns or {})
    return Loaded(prompts, dropped, {**origin, "source": source, "split": split, "rows": len(raws)})


def _rows(place: DatasetRef, split: str) -> tuple[Iterable[Raw], dict[str, Any]]:
    from sieverl.data import hub

    if place.path is None:
        return hub.fetch(place, split)
    readme = place.path / "README.md"
    if readme.is_file() and "\nconfigs:" in readme.read_text(encoding="utf-8", errors="replace"):
        return hub.load(place.path, str(place.path), place, split), {"path": str(place.path)}
    return read_path(place.path, split), {"path": str(place.path)}
