"""Make a prompt with its gold answer from each raw row, or say why the row cannot be used."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sieverl.data.answers import Extract
from sieverl.data.local import RawRow
from sieverl.data.locate import DatasetRef
from sieverl.errors import DataError, nearest
from sieverl.types import Prompt, Row

NO_ANSWER = ", or answer= (nothing) where a reward of your own needs none"


@dataclass(frozen=True)
class Dropped:
    """A row that is not used: its index in the source, its file and line, the reason with details, and the row."""

    id: int
    where: str
    reason: str
    detail: str
    row: Row | None


def make_prompts(
    raws: Sequence[RawRow], ref: DatasetRef, columns: Mapping[str, str]
) -> tuple[list[Prompt], list[Dropped]]:
    """The prompts of a source's rows, and the rows that cannot be used.

    `columns` are the columns of the `prompt` and the `answer`, where the user names them; `answer = ""` says that there
    is none, and none is needed. Raises DataError if there is
    no such column, or no usable row.
    """
    if not raws:
        raise DataError(f"{ref.source} is empty: it has no row; give a file with a prompt and an answer in each row")
    rows = [raw.row for raw in raws if raw.row is not None]
    if not rows:
        raise DataError(f"{raws[0].where}: {raws[0].problem}; not one row of {ref.source} can be read")
    prompt_column = _find_column("prompt", rows, columns, ref.spec.prompt)
    answer_column = "" if columns.get("answer") == "" else _find_column("answer", rows, columns, ref.spec.answer)
    prompts: list[Prompt] = []
    dropped: list[Dropped] = []
    for number, raw in enumerate(raws):
        made = _make_prompt(number, raw, prompt_column, answer_column, ref.spec.extract, ref.spec.reject)
        if isinstance(made, Prompt):
            prompts.append(made)
        else:
            dropped.append(made)
    if not prompts:
        first = dropped[0]
        raise DataError(
            f"{ref.source} has no usable row: none of {len(raws)} has a prompt and an answer "
            f"(prompt column {prompt_column!r}, answer column {answer_column!r}); {first.where}: {first.detail}"
        )
    return prompts, dropped


def _make_prompt(
    number: int, raw: RawRow, prompt_column: str, answer_column: str, extract: Extract, reject: Sequence[str]
) -> Prompt | Dropped:
    if raw.row is None:
        return Dropped(number, raw.where, "malformed", raw.problem, None)
    row = _restore_columns(raw.row)
    question = column_value(row, prompt_column)
    if isinstance(question, list):
        messages = as_messages(question)
        if messages is None:
            detail = f"column {prompt_column!r} is no chat: a list of {{role, content}} with a user message is expected"
            return Dropped(number, raw.where, "malformed", detail, row)
        text = next(m["content"] for m in reversed(messages) if m["role"] == "user")
    else:
        missing = question is None or question != question  # NaN, which Parquet files have for null
        messages, text = None, "" if missing else str(question)
    if not text.strip():
        return Dropped(number, raw.where, "empty prompt", f"column {prompt_column!r} is empty", row)
    if not answer_column:
        return Prompt(number, text, row, messages)
    given = column_value(row, answer_column)
    gold = extract(given)
    if gold is None or gold.lower() in reject:
        problem = "is empty" if given in (None, "", []) else f"marks no answer: ...{str(given)[-60:]!r}"
        return Dropped(number, raw.where, "no answer", f"column {answer_column!r} {problem}", row)
    full = {**row, "answer": gold}
    if isinstance(given, str) and given.strip() != gold:
        full.setdefault("solution", given)  # the worked solution in the answer column
    return Prompt(number, text, full, messages)


def _restore_columns(row: dict[str, object]) -> dict[str, object]:
    """A row, with the columns of its source if `prepare` wrote it: a user's verifier may need them."""
    extra = row.get("extra_info")
    if not isinstance(extra, dict) or not isinstance(extra.get("columns"), str):
        return row
    try:
        return {**row, **json.loads(extra["columns"])}
    except (ValueError, TypeError):  # a column of that name which another program wrote
        return row


def as_messages(value: Sequence[object]) -> list[dict[str, str]] | None:
    """The messages of a chat without the final ones of the assistant, which are the solution; None if it is no chat."""
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


def column_value(row: Row, column: str) -> object:
    """The value of a column, or None if there is none; `a.b` is the field `b` of the column `a`.

    >>> column_value({"reward_model": {"ground_truth": "7"}}, "reward_model.ground_truth")
    '7'
    """
    if column in row:
        return row[column]
    value: object = row
    for key in column.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _find_column(role: str, rows: Sequence[Row], given: Mapping[str, str], candidates: Sequence[str]) -> str:
    wanted = [given[role]] if role in given else candidates
    for column in wanted:
        if any(column_value(row, column) is not None for row in rows):
            return column
    names = list(dict.fromkeys(name for row in rows[:100] for name in row))
    if role in given:
        if any(given[role] in row for row in rows):
            raise DataError(f"the column {given[role]!r} is null in every row; give another as {role}=COLUMN")
        raise DataError(
            f"no column {given[role]!r} for the {role}; there is: {', '.join(names)}.{nearest(given[role], names)}"
        )
    raise DataError(
        f"no column that could be the {role}: looked for {', '.join(candidates)}; there is: {', '.join(names)}; "
        f"say which with {role}=COLUMN{NO_ANSWER if role == 'answer' else ''}"
    )
