"""From a raw row to a prompt with its gold answer, or to the reason why it is none."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sieverl.data.answers import Extract
from sieverl.data.local import Raw
from sieverl.data.locate import DatasetRef
from sieverl.errors import DataError, nearest
from sieverl.types import Prompt


@dataclass(frozen=True)
class Dropped:
    """A row that is not used: its number in the source, where it stands, a reason to count by, and the row."""

    id: int
    where: str
    reason: str
    detail: str
    row: Mapping[str, Any] | None


def _prompts(raws: Sequence[Raw], place: DatasetRef, columns: Mapping[str, str]) -> tuple[list[Prompt], list[Dropped]]:
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
