"""What a program gives of its own: functions and algorithms, under names that a recipe can hold."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sieverl.errors import UsageError
from sieverl.types import JsonObject
from sieverl.userfile import give

Reward = str | Callable[..., object]


def name_of(value: Any, kind: str) -> str:
    """The name of a function or an algorithm in a recipe: where it can be imported from, if it can, else `given:NAME`.

    With FILE.py:NAME or MODULE:NAME the command line can resume the run, too.

    >>> from sieverl.text import printable
    >>> name_of(printable, "reward"), name_of(lambda response, row: 1.0, "reward")
    ('sieverl.text:printable', 'given:lambda')
    """
    name, module = getattr(value, "__qualname__", ""), sys.modules.get(getattr(value, "__module__", "") or "")
    at_the_top = name and module is not None and getattr(module, name, None) is value
    if not at_the_top or module is None or module.__name__ == "__main__":
        return give(value, name.rpartition(".")[2] or (type(value).__name__ if callable(value) else kind))
    file = Path(str(getattr(module, "__file__", None) or "nowhere"))
    if module.__package__ or file.suffix != ".py":
        return f"{module.__name__}:{name}"
    return f"{os.path.relpath(file) if file.is_relative_to(Path.cwd()) else file}:{name}"


def spec_of(reward: Any, weights: Sequence[float] | None = None) -> JsonObject:
    """The [verify] table of a reward: a name, a function, or a list of these with weights.

    >>> spec_of("math"), spec_of(["math", "number"], [1.0, 0.5])["parts"][1]
    ({'name': 'math'}, {'name': 'number', 'weight': 0.5})
    """
    if isinstance(reward, list | tuple):
        if weights is not None and len(weights) != len(reward):
            raise UsageError(f"reward_weights has {len(weights)} numbers for {len(reward)} rewards; give one for each")
        each = weights if weights is not None else [1.0] * len(reward)
        parts = [spec_of(one) | {"weight": weight} for one, weight in zip(reward, each, strict=True)]
        return {"name": "sum", "parts": parts}
    if weights is not None:
        raise UsageError("reward_weights weigh a list of rewards; give reward=[...] too")
    if isinstance(reward, str):
        return {"name": reward}
    if not callable(reward) or inspect.isclass(reward):
        kind = type(reward).__name__
        raise UsageError(f"reward is a {kind}; give a function, the name of a verifier, or a list of them")
    if inspect.iscoroutinefunction(reward):
        raise UsageError("reward is an asynchronous function; give a plain one")
    return {"name": name_of(reward, "reward")}
