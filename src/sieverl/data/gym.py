"""Prompts made by a reasoning-gym task: a seed, a size and the task's options instead of a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sieverl.errors import UsageError, nearest
from sieverl.types import Prompt


def prompts(task: str, options: Mapping[str, Any], columns: Mapping[str, str]) -> Iterator[Prompt]:
    """The task's rows one after the other, each made when it is asked for; row i depends on seed + i only.

    The row is exactly the task's, so that its scorer can read it (some tasks have no `answer`, only a scorer); the
    option `prompt` takes another field than `question` as the text. Raises UsageError for an unknown task or option.
    """
    from sieverl.data.rows import get

    config = dict(options)
    column = str(config.pop("prompt", columns.get("prompt", "question")))
    dataset = _dataset(task, config)
    for number in range(len(dataset)):
        row = dataset[number]
        text = get(row, column)
        if not isinstance(text, str) or not text.strip():
            names = [*row, *(f"metadata.{name}" for name in row.get("metadata", {}))]
            raise UsageError(f"reasoning_gym:{task} has no text in {column!r}; there is: {', '.join(names)}")
        yield Prompt(number, text, row)


def _dataset(task: str, config: dict[str, Any]) -> Any:
    import dataclasses

    import reasoning_gym
    from reasoning_gym.factory import DATASETS

    if task not in DATASETS:
        raise UsageError(f"unknown reasoning-gym task {task!r}; see reasoning_gym.factory.{nearest(task, DATASETS)}")
    known = [f.name for f in dataclasses.fields(DATASETS[task][1])]
    if wrong := sorted(set(config) - set(known)):
        raise UsageError(
            f"unknown option {wrong[0]!r} of reasoning_gym:{task}; allowed: prompt, {', '.join(known)}."
            f"{nearest(wrong[0], known)}"
        )
    try:
        return reasoning_gym.create_dataset(task, **config)
    except (AssertionError, ValueError, TypeError) as error:
        raise UsageError(f"reasoning_gym:{task} refuses {config}: {error or 'a value is out of range'}") from error
