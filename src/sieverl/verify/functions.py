"""Verifiers written by others: a user's Python function (SieveRL's or TRL's signature), and reasoning-gym's scorers."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import sys
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from sieverl.errors import DataError, UsageError, nearest
from sieverl.types import Row, Verdict
from sieverl.userfile import load_file
from sieverl.verify import extract
from sieverl.verify.check import NO_ANSWER, Verifier, as_verdict


def function(path: str, correct_from: float = 1.0) -> Verifier:
    """A user's function, `file.py:name` or `module:name`: `(response, row) -> float | Verdict | None` or TRL's.

    It is loaded on first use, which in the pool is in the workers only. Whether its rewards are graded is known only if
    it has an attribute `graded`.
    """
    given = cache(lambda: load_function(path))
    load = cache(lambda: adapt(given(), path))

    def declares() -> bool | None:
        found = getattr(given(), "graded", None)
        if found not in (None, True, False):
            raise UsageError(f"{path} has the attribute graded = {found!r}; it can be True or False.")
        return found

    return Verifier(
        full=lambda response, row: as_verdict(load()(response, row), correct_from),
        prepare=lambda: (load(), declares()),
        graded=None,
        declares=declares,
    )


def load_function(path: str) -> Callable[..., Any]:
    """The function that `file.py:name` or `module:name` names; a UsageError that says what is wrong with it."""
    source, _, name = path.rpartition(":")
    try:
        module = load_file(source) if source.endswith(".py") else load_module(source)
    except Exception as error:  # a user's file can raise anything while it is imported
        raise UsageError(f"Cannot load the verifier {path}: {type(error).__name__}: {error}.") from error
    found = getattr(module, name, None)
    if not callable(found):
        names = [key for key, value in vars(module).items() if inspect.isfunction(value)]
        raise UsageError(f"{source} has no function {name}; it has {', '.join(names) or 'none'}.{nearest(name, names)}")
    if inspect.iscoroutinefunction(found):
        raise UsageError(f"The verifier {path} is asynchronous; give a plain function.")
    return found


def load_module(source: str) -> Any:
    """An importable module, or one in the current directory."""
    sys.path.append(os.getcwd())
    return importlib.import_module(source)


def adapt(called: Callable[..., Any], path: str) -> Callable[[str, Row], Any]:
    """The function as `(response, row) -> reward`; one with a parameter `completions` has TRL's signature."""
    signature = inspect.signature(called)
    parameters = signature.parameters
    if "completions" not in parameters:
        try:
            signature.bind("response", {})
        except TypeError as error:
            raise UsageError(
                f"The verifier {path} takes ({', '.join(parameters)}); give it (response, row), "
                "or TRL's (completions, **columns)."
            ) from error
        return called
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    required = {name for name, p in parameters.items() if p.default is p.empty and p.kind is not p.VAR_KEYWORD}

    def score(response: str, row: Row) -> Any:
        columns = trl_columns(response, row)
        if missing := required - columns.keys():
            raise UsageError(f"The verifier {path} needs the column {min(missing)}; the data has {', '.join(columns)}.")
        rewards = called(**{name: value for name, value in columns.items() if takes_all or name in parameters})
        if not isinstance(rewards, list | tuple) and not hasattr(rewards, "tolist"):
            raise TypeError(f"the function returned a {type(rewards).__name__}, not a list of one reward")
        return next(iter(rewards))

    return score


def trl_columns(response: str, row: Row) -> dict[str, list[Any]]:
    """The keyword arguments that TRL gives a reward function, for one response: every column a list of length one.

    >>> trl_columns("4", {"prompt": "2+2?", "answer": "4"})
    {'prompts': ['2+2?'], 'completions': ['4'], 'answer': ['4']}
    """
    prompt = row.get("prompts", row.get("prompt", row.get("messages", "")))
    chat = isinstance(prompt, list | tuple) and bool(prompt) and isinstance(prompt[0], Mapping)
    completion: Any = [{"role": "assistant", "content": response}] if chat else response
    others = {name: [value] for name, value in row.items() if name not in ("prompt", "prompts", "completions")}
    return {"prompts": [prompt], "completions": [completion], **others}


def reasoning_gym(task: str | None = None, after: str | None = None, correct_from: float = 1.0) -> Verifier:
    r"""reasoning-gym's own scorer of a task: `task`, or the one that the row's `metadata` names. Graded.

    The answer is the last box, or <answer>...</answer>, or what stands behind `after`; else the whole response.
    """

    def score(response: str, row: Row) -> Verdict:
        name = task or metadata(row).get("source_dataset")
        if not name:
            raise DataError("A row names no reasoning-gym task; set verify.task, or keep its metadata.source_dataset.")
        answer = gym_answer(response, after)
        if not answer:
            return NO_ANSWER
        entry = {**row, "metadata": metadata(row)}
        return as_verdict(scorer(name)(answer, entry), correct_from)

    return Verifier(full=score, prepare=lambda: importlib.import_module("reasoning_gym"), graded=True, gold=gym_gold)


def gym_gold(row: Row) -> str | None:
    """The gold between the tags that reasoning-gym asks for; some tasks have none, only a scorer."""
    return None if row.get("answer") is None else f"<answer>{row['answer']}</answer>"


def gym_answer(response: str, after: str | None) -> str:
    r"""The answer as reasoning-gym's scorers want it, without the markup around it.

    >>> gym_answer(r"so \boxed{12}", None), gym_answer("<answer> a b </answer>", None), gym_answer("A: 3", "A:")
    ('12', 'a b', '3')
    """
    marked = extract.after_marker(response, after) if after else None
    _, opened, tail = response.rpartition("<answer>")
    tagged = tail.split("</answer>")[0].strip() if opened else ""
    return marked or tagged or (extract.boxed(response) or [response.strip()])[-1]


def metadata(row: Row) -> dict[str, Any]:
    """The row's `metadata`, which Parquet files often hold as JSON text."""
    found = row.get("metadata") or {}
    return json.loads(found) if isinstance(found, str) else dict(found)


@cache
def scorer(name: str) -> Callable[..., float]:
    """The scoring function of a reasoning-gym task."""
    import reasoning_gym as gym

    try:
        return gym.get_score_answer_fn(name)
    except ValueError as error:  # not registered
        known = sorted(gym.factory.DATASETS)
        raise UsageError(
            f"reasoning-gym has no task {name!r} ({len(known)} are known).{nearest(name, known)}"
        ) from error
