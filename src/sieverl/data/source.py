"""From a name, a path or a Hub id to prompts with gold answers."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from sieverl.data.answers import Extract, extractor
from sieverl.data.files import SUFFIXES, Raw, read_path
from sieverl.data.registry import SOURCES, Source
from sieverl.errors import DataError, UsageError, nearest
from sieverl.types import Prompt

_HUB = re.compile(r"(?P<hub>[\w.-]+/[\w.-]+)(:(?P<config>[\w.-]+))?(@(?P<revision>[\w./-]+))?")
_OPTIONS = ("path", "revision", "config", "extract", "bad_rows")
_ANY = Source("")


@dataclass(frozen=True)
class Dropped:
    """A row that is not used: its number in the source, where it stands, a reason to count by, and the row."""

    id: int
    where: str
    reason: str
    detail: str
    row: Mapping[str, Any] | None


@dataclass(frozen=True)
class Loaded:
    """The prompts of a source, the rows that are none, and where it all came from (path, or Hub id and commit)."""

    prompts: list[Prompt]
    dropped: list[Dropped]
    origin: Mapping[str, Any]


@dataclass(frozen=True)
class Place:
    """A source taken apart: what is known of it, and one of a local path, a Hub id or a reasoning-gym task."""

    source: str
    known: Source = _ANY
    name: str | None = None
    path: Path | None = None
    hub: str | None = None
    task: str | None = None
    config: str | None = None
    revision: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


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


def locate(source: str, options: Mapping[str, Any]) -> Place:
    """What a source means. A known name wins over a file of that name: write `./math` for the file.

    >>> locate("org/set:main@abc123", {}).revision
    'abc123'
    """
    kind, _, task = source.partition(":")
    if kind == "reasoning_gym":
        return Place(source, task=task, options=options)
    if wrong := sorted(set(options) - set(_OPTIONS)):
        raise UsageError(
            f"unknown data option {wrong[0]!r}; allowed: {', '.join(_OPTIONS)}.{nearest(wrong[0], _OPTIONS)}"
        )
    place = _locate(source)
    if (bad := options.get("bad_rows", "stop")) not in ("stop", "drop"):
        raise UsageError(f"bad_rows is {bad!r}; allowed: stop, drop")
    if "extract" in options:
        place = replace(place, known=replace(place.known, extract=extractor(str(options["extract"]))))
    if "path" in options:
        return replace(place, path=Path(options["path"]).expanduser(), hub=None)
    config, revision = options.get("config", place.config), options.get("revision", place.revision)
    return replace(place, config=config, revision=revision)


def _locate(source: str) -> Place:
    name, at, rest = source.partition("@")
    if name in SOURCES:
        known = SOURCES[name]
        if at and _is_path(rest):
            return Place(source, known, name, path=Path(rest).expanduser(), config=known.config)
        return Place(source, known, name, hub=known.hub, config=known.config, revision=rest or None)
    path = Path(source).expanduser()
    if path.exists() or path.suffix.lower() in SUFFIXES:
        return Place(source, path=path)
    if match := _HUB.fullmatch(source):
        known = next((s for s in SOURCES.values() if s.hub == match["hub"]), _ANY)
        config = match["config"] or known.config
        return Place(source, known, hub=match["hub"], config=config, revision=match["revision"])
    raise DataError(
        f"cannot find the data {source!r}: no such file, and not one of the known names ({', '.join(SOURCES)}), "
        f"reasoning_gym:TASK or a Hub id org/name.{nearest(source, SOURCES)}"
    )


def _is_path(text: str) -> bool:
    path = Path(text).expanduser()
    return path.exists() or path.suffix.lower() in SUFFIXES or ("/" in text and not text.startswith("refs/"))


def _rows(place: Place, split: str) -> tuple[Iterable[Raw], dict[str, Any]]:
    from sieverl.data import hub

    if place.path is None:
        return hub.fetch(place, split)
    readme = place.path / "README.md"
    if readme.is_file() and "\nconfigs:" in readme.read_text(encoding="utf-8", errors="replace"):
        return hub.load(place.path, str(place.path), place, split), {"path": str(place.path)}
    return read_path(place.path, split), {"path": str(place.path)}


def _prompts(raws: Sequence[Raw], place: Place, columns: Mapping[str, str]) -> tuple[list[Prompt], list[Dropped]]:
    if not raws:
        raise DataError(f"{place.source} is empty: it has no row; give a file with a prompt and an answer in each row")
    rows = [raw.row for raw in raws if raw.row is not None]
    if not rows:
        raise DataError(f"{raws[0].where}: {raws[0].problem}; not one row of {place.source} can be read")
    prompt_column = _column("prompt", rows, columns, place.known.prompt)
    answer_column = _column("answer", rows, columns, place.known.answer)
    prompts: list[Prompt] = []
    dropped: list[Dropped] = []
    for number, raw in enumerate(raws):
        made = _prompt(number, raw, prompt_column, answer_column, place.known.extract, place.known.reject)
        if isinstance(made, Prompt):
            prompts.append(made)
        else:
            dropped.append(made)
    if not prompts:
        first = dropped[0]
        raise DataError(
            f"{place.source} has no usable row: none of {len(raws)} has a prompt and an answer "
            f"(prompt column {prompt_column!r}, answer column {answer_column!r}); {first.where}: {first.detail}"
        )
    return prompts, dropped


def _prompt(
    number: int, raw: Raw, prompt_column: str, answer_column: str, extract: Extract, reject: Sequence[str]
) -> Prompt | Dropped:
    if raw.row is None:
        return Dropped(number, raw.where, "malformed", raw.problem, None)
    row = _unpacked(raw.row)
    question = get(row, prompt_column)
    if isinstance(question, list):
        messages = as_messages(question)
        if messages is None:
            detail = f"column {prompt_column!r} is no chat: a list of {{role, content}} with a user's turn is expected"
            return Dropped(number, raw.where, "malformed", detail, row)
        text = next(m["content"] for m in reversed(messages) if m["role"] == "user")
    else:
        messages, text = None, "" if question is None else str(question)
    if not text.strip():
        return Dropped(number, raw.where, "empty prompt", f"column {prompt_column!r} is empty", row)
    given = get(row, answer_column)
    gold = extract(given)
    if gold is None or gold.lower() in reject:
        came = "is empty" if given in (None, "", []) else f"marks no answer: ...{str(given)[-60:]!r}"
        return Dropped(number, raw.where, "no answer", f"column {answer_column!r} {came}", row)
    full = {**row, "answer": gold}
    if isinstance(given, str) and given.strip() != gold:
        full.setdefault("solution", given)  # the worked solution that stood in the answer column
    return Prompt(number, text, full, messages)


def _unpacked(row: dict[str, Any]) -> dict[str, Any]:
    """A row that `prepare` wrote, with the columns of its source (a user's verifier may want them) back in place."""
    extra = row.get("extra_info")
    if not isinstance(extra, dict) or not isinstance(extra.get("columns"), str):
        return row
    try:
        return {**row, **json.loads(extra["columns"])}
    except (ValueError, TypeError):  # another program's column of that name
        return row


def as_messages(value: Sequence[Any]) -> list[dict[str, str]] | None:
    """The chat without the assistant's last turn, which is the solution; None when the value is no chat."""
    messages: list[dict[str, str]] = []
    for item in value:
        if not isinstance(item, Mapping) or not isinstance(item.get("role"), str):
            return None
        content = item.get("content")
        if isinstance(content, list):
            if not all(isinstance(part, Mapping) and isinstance(part.get("text"), str) for part in content):
                return None
            content = "".join(part["text"] for part in content)
        if not isinstance(content, str):
            return None
        messages.append({"role": item["role"], "content": content})
    while messages and messages[-1]["role"] == "assistant":
        messages.pop()
    return messages if any(m["role"] == "user" for m in messages) else None


def get(row: Mapping[str, Any], column: str) -> Any:
    """The value of a column; dots reach into nested rows. None when it is not there.

    >>> get({"reward_model": {"ground_truth": "7"}}, "reward_model.ground_truth")
    '7'
    """
    if column in row:
        return row[column]
    value: Any = row
    for key in column.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _column(role: str, rows: Sequence[Mapping[str, Any]], given: Mapping[str, str], candidates: Sequence[str]) -> str:
    wanted = [given[role]] if role in given else candidates
    for column in wanted:
        if any(get(row, column) is not None for row in rows):
            return column
    names = list(_names(rows[:100]))
    if role in given:
        if any(given[role] in row for row in rows):
            raise DataError(f"the column {given[role]!r} is null in every row; give another as {role}=COLUMN")
        raise DataError(
            f"no column {given[role]!r} for the {role}; there is: {', '.join(names)}.{nearest(given[role], names)}"
        )
    raise DataError(
        f"no column that could be the {role}: looked for {', '.join(candidates)}; there is: {', '.join(names)}; "
        f"say which with {role}=COLUMN"
    )


def _names(rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    yield from dict.fromkeys(name for row in rows for name in row)
