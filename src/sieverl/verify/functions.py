"""Verifiers that others wrote: a user's function (with SieveRL's or TRL's signature), reasoning-gym's scorers."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import sys
from collections.abc import Callable, Mapping
from functools import cache
from types import ModuleType
from typing import Any

from sieverl.errors import DataError, UsageError, nearest
from sieverl.types import Row, Verdict
from sieverl.userfile import GIVEN, given, load_file
from sieverl.verify import extract
from sieverl.verify.guard import guard_reasoning_gym
from sieverl.verify.limits import IMPORT_MB
from sieverl.verify.verifier import NO_ANSWER, Verifier, as_verdict


def function(path: str, correct_from: float = 1.0) -> Verifier:
    """Verifies with a user's function, given as `file.py:name` or `module:name`.

    Its signature is `(response, row) -> float | Verdict | None`, or that of TRL's reward functions. It is loaded on
    first use, which under a pool happens only in the workers. Its attribute `graded`, if it has one, says whether its
    rewards are more than correct and incorrect.
    """
    load = cache(lambda: load_function(path))
    load_adapted = cache(lambda: adapt_signature(load(), path))

    def declares() -> bool | None:
        found = getattr(load(), "graded", None)
        if found not in (None, True, False):
            raise UsageError(f"{path} has the attribute graded = {found!r}; it can be True or False.")
        return found

    return Verifier(
        full=lambda response, row: as_verdict(load_adapted()(response, row), correct_from),
        prepare=lambda: (load_adapted(), declares()),
        graded=None,
        declares=declares,
    )


def load_function(path: str) -> Callable[..., object]:
    """The function that `file.py:name` or `module:name` names. Raises UsageError if it cannot be loaded or used."""
    if path.startswith(GIVEN):
        found = given(path)
        assert callable(found)
        return found
    source, _, name = path.rpartition(":")
    try:
        module = load_file(source) if source.endswith(".py") else load_module(source)
    except MemoryError as error:
        raise UsageError(
            f"Cannot load the verifier {path}: its import ran out of memory, of which it has verify.memory_mb and "
            f"{IMPORT_MB} MiB more; load large things elsewhere."
        ) from error
    except Exception as error:  # a user's file can raise anything while it is imported
        raise UsageError(f"Cannot load the verifier {path}: {type(error).__name__}: {error}.") from error
    found = getattr(module, name, None)
    if not callable(found):
        names = [key for key, value in vars(module).items() if inspect.isfunction(value)]
        raise UsageError(f"{source} has no function {name}; it has {', '.join(names) or 'none'}.{nearest(name, names)}")
    if inspect.iscoroutinefunction(found):
        raise UsageError(f"The verifier {path} is asynchronous; give a plain function.")
    return found


def load_module(source: str) -> ModuleType:
    """Import a module that is installed or in the current directory."""
    sys.path.append(os.getcwd())
    return importlib.import_module(source)


def adapt_signature(function: Callable[..., object], path: str) -> Callable[[str, Row], object]:
    """The function as `(response, row) -> reward`. One with a parameter `completions` has TRL's signature.

    One of `(response, **columns)` gets the columns of the row by name.
    """
    signature = inspect.signature(function)
    parameters = signature.parameters
    if "completions" not in parameters:
        try:
            signature.bind("response", {})
        except TypeError as error:
            if any(p.kind is p.VAR_KEYWORD for p in parameters.values()) and _binds(signature, "response"):
                return lambda response, row: function(response, **row)
            raise UsageError(
                f"The verifier {path} takes ({', '.join(parameters)}); give it (response, row), "
                "or TRL's (completions, **columns)."
            ) from error
        return function
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    required = {name for name, p in parameters.items() if p.default is p.empty and p.kind is not p.VAR_KEYWORD}

    def call_with_columns(response: str, row: Row) -> object:
        columns = trl_columns(response, row)
        if missing := required - columns.keys():
            raise UsageError(f"The verifier {path} needs the column {min(missing)}; the data has {', '.join(columns)}.")
        rewards = function(**{name: value for name, value in columns.items() if takes_all or name in parameters})
        if hasattr(rewards, "tolist"):  # an array or a tensor
            rewards = rewards.tolist()
        if not isinstance(rewards, list | tuple):
            raise TypeError(f"the function returned a {type(rewards).__name__}, not a list of one reward")
        if len(rewards) != 1:
            raise ValueError(f"the function returned {len(rewards)} rewards for 1 completion")
        return rewards[0]

    return call_with_columns


def _binds(signature: inspect.Signature, *arguments: object) -> bool:
    """Whether a function can be called with these arguments, by position."""
    try:
        signature.bind(*arguments)
    except TypeError:
        return False
    return True


def trl_columns(response: str, row: Row) -> dict[str, list[Any]]:
    """The keyword arguments that TRL would pass for this one response: every column as a list of length one.

    >>> trl_columns("4", {"prompt": "2+2?", "answer": "4"})
    {'prompts': ['2+2?'], 'completions': ['4'], 'answer': ['4']}
    """
    prompt = row.get("prompts", row.get("prompt", row.get("messages", "")))
    chat = isinstance(prompt, list | tuple) and bool(prompt) and isinstance(prompt[0], Mapping)
    completion = [{"role": "assistant", "content": response}] if chat else response
    others = {name: [value] for name, value in row.items() if name not in ("prompt", "prompts", "completions")}
    return {"prompts": [prompt], "completions": [completion], **others}


def reasoning_gym(task: str | None = None, after: str | None = None, correct_from: float = 1.0) -> Verifier:
    r"""Verifies with reasoning-gym's own scorer of `task`, or of the task that the row's `metadata` names. Graded.

    The answer is what follows `after`, else the content of <answer>...</answer>, else the last box, else the whole
    response.
    """

    def verify(response: str, row: Row) -> Verdict:
        name = task or row_metadata(row).get("source_dataset")
        if not name:
            raise DataError("A row names no reasoning-gym task; set verify.task, or keep its metadata.source_dataset.")
        answer = gym_answer(response, after)
        if not answer:
            return NO_ANSWER
        entry = {**row, "metadata": row_metadata(row)}
        return as_verdict(gym_scorer(name)(answer, entry), correct_from)

    def prepare() -> None:
        importlib.import_module("reasoning_gym")
        guard_reasoning_gym()

    return Verifier(full=verify, prepare=prepare, graded=True, gold=gym_gold)


def gym_gold(row: Row) -> str | None:
    """The gold answer in the tags that reasoning-gym asks for; None for tasks that have only a scorer."""
    return None if row.get("answer") is None else f"<answer>{row['answer']}</answer>"


def gym_answer(response: str, after: str | None) -> str:
    r"""The answer for reasoning-gym's scorers, without the markup around it.

    >>> gym_answer(r"so \boxed{12}", None), gym_answer("<answer> a b </answer>", None), gym_answer("A: 3", "A:")
    ('12', 'a b', '3')
    """
    marked = extract.after_marker(response, after) if after else None
    _, opened, tail = response.rpartition("<answer>")
    tagged = tail.split("</answer>")[0].strip() if opened else ""
    return marked or tagged or (extract.box_contents(response) or [response.strip()])[-1]


def row_metadata(row: Row) -> dict[str, Any]:
    """The column `metadata` of a row, which Parquet files often hold as JSON text."""
    found = row.get("metadata") or {}
    return json.loads(found) if isinstance(found, str) else dict(found)


@cache
def gym_scorer(name: str) -> Callable[..., float]:
    """The scoring function of a reasoning-gym task."""
    import reasoning_gym as gym

    try:
        return gym.get_score_answer_fn(name)
    except ValueError as error:  # not registered
        known = sorted(gym.factory.DATASETS)
        raise UsageError(
            f"reasoning-gym has no task {name!r} ({len(known)} are known).{nearest(name, known)}"
        ) from error
