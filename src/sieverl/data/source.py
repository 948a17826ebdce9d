"""Load prompts with gold answers from a name, a path or a Hub id."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TypedDict

from sieverl.data.local import RawRow, read_path
from sieverl.data.locate import DatasetRef, locate
from sieverl.data.rows import Dropped, make_prompts
from sieverl.errors import DataError, UsageError
from sieverl.types import Prompt


class Origin(TypedDict, total=False):
    """Where prompts came from: `source` as it was given, `split`, the number of `rows`, and what identifies the data.

    That is the `path` of files; the Hub id `hub`, the configuration `config` and the commit `revision`; or the
    `options` of a reasoning-gym task.
    """

    source: str
    split: str
    rows: int
    path: str
    hub: str | None
    config: str | None
    revision: str | None
    options: dict[str, object]


@dataclass(frozen=True)
class Loaded:
    """The prompts of a source, the rows that cannot be used, and where they came from."""

    prompts: list[Prompt]
    dropped: list[Dropped]
    origin: Origin


def load_prompts(
    source: str,
    *,
    columns: Mapping[str, str] | None = None,
    split: str = "train",
    limit: int | None = None,
    options: Mapping[str, object] | None = None,
) -> list[Prompt]:
    """The prompts of a source, each with its gold answer as text in `row["answer"]`.

    `source` is a JSONL, JSON or Parquet file, a directory of them or a dataset saved to disk; `reasoning_gym:TASK`; a
    name of `SOURCES`, alone or with a local copy (`gsm8k@copy.jsonl`) or a revision (`gsm8k@COMMIT`); or a Hub id
    `org/name[:config][@revision]`. `columns` names the columns of the `prompt` and the `answer` (`a.b` is the field `b`
    of the column `a`), `limit` reads only the first rows. `options` are those of the reasoning-gym task, or `path`,
    `revision`, `config`, `extract` (how the gold answer is extracted from its column) and `bad_rows` (`stop`, or `drop`
    with a warning). Raises DataError for data or rows that cannot be used, UsageError for options.

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
    options: Mapping[str, object] | None = None,
) -> Loaded:
    """Like `load_prompts`, but returns the rows that cannot be used instead of raising an error.

    Raises DataError if nothing can be read, a column is missing, or no row has both a prompt and an answer.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"limit is {limit}; it must be at least 1 row")
    if wrong := sorted(set(columns or {}) - {"prompt", "answer"}):
        raise UsageError(f"unknown column role {wrong[0]!r}; allowed: prompt=COLUMN, answer=COLUMN")
    ref = locate(source, options or {})
    if ref.task is not None:
        from sieverl.data.gym import gym_prompts

        prompts = list(islice(gym_prompts(ref.task, ref.options, columns or {}), limit))
        return Loaded(
            prompts, [], {"source": source, "split": split, "options": dict(ref.options), "rows": len(prompts)}
        )
    rows, origin = _read_rows(ref, split)
    raws = list(islice(rows, limit))
    prompts, dropped = make_prompts(raws, ref, columns or {})
    return Loaded(prompts, dropped, {**origin, "source": source, "split": split, "rows": len(raws)})


def _read_rows(ref: DatasetRef, split: str) -> tuple[Iterable[RawRow], Origin]:
    from sieverl.data import hub

    if ref.path is None:
        rows, commit = hub.hub_rows(ref, split)
        return rows, {"hub": ref.hub, "config": ref.config, "revision": commit}
    readme = ref.path / "README.md"
    if readme.is_file() and "\nconfigs:" in readme.read_text(encoding="utf-8", errors="replace"):
        return hub.repository_rows(ref.path, str(ref.path), ref, split), {"path": str(ref.path)}
    return read_path(ref.path, split), {"path": str(ref.path)}
