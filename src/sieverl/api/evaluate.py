"""`sieverl.evaluate`: `sieverl eval` from a program or a notebook."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from sieverl.api.given import name_of
from sieverl.commands.eval import Options, measure
from sieverl.display.terminal import Terminal
from sieverl.errors import UsageError, nearest
from sieverl.evaluation.results import Result


def evaluate(
    model: str | Path,
    benchmark: str | Path,
    k: int | None = None,
    *,
    verifier: str | Callable[..., object] | None = None,
    output: str | Path | None = None,
    display: bool = True,
    **options: Any,
) -> Result:
    """Measure a model on a benchmark with `k` responses a prompt, and return the result.

    `model` is a directory, a run, a checkpoint, a Hub id or "base", the shipped model; `benchmark` a name of `sieverl
    data list` or a file. `options` are those of `sieverl eval`: `greedy`, `temperature`, `max_tokens`, `limit`, `seed`,
    `columns={"prompt": "question"}` and so on. The result is also written to `output`, a JSON file, if that is given;
    then the same call goes on from the responses that it has. `result["scores"]` has avg@k, pass@k and maj@k, each
    with its 95% interval, in [0, 1]. Raises a UsageError or DataError for what cannot work.

    >>> import sieverl
    >>> result = sieverl.evaluate("base", "demo", k=1, limit=4, display=False)
    >>> sorted(result["scores"]["avg@1"])
    ['high', 'low', 'value']
    """
    known = [field.name for field in fields(Options)]
    if wrong := [name for name in options if name not in known or name in ("compare", "json")]:
        raise UsageError(f"sieverl.evaluate has no option {wrong[0]!r}.{nearest(wrong[0], known)}")
    given = {name: _as_typed(name, value) for name, value in options.items()}
    if verifier is not None:
        given["verifier"] = verifier if isinstance(verifier, str) else name_of(verifier, "verifier")
    with tempfile.TemporaryDirectory() as folder:
        place = str(output or Path(folder) / "result.json")
        chosen = Options(model=str(model), benchmark=str(benchmark), k=k, output=place, **given)
        console = Terminal(soft_wrap=True, highlight=False, quiet=not display)
        return measure(chosen, console)[0][0]


def _as_typed(name: str, value: Any) -> Any:
    """An option as the command line has it: a table as `a=b,c=d`, or as a list of `a=b` where it takes one."""
    if not isinstance(value, Mapping):
        return value
    items = [f"{key}={inner}" for key, inner in value.items()]
    return ",".join(items) if name == "columns" else items
