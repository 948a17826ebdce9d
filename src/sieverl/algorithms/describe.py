"""An algorithm in words: its axes, its formula, the table of the documentation."""

from __future__ import annotations

import inspect
from dataclasses import fields, is_dataclass

from sieverl.algorithms.algorithm import Algorithm, DynamicSampling
from sieverl.algorithms.named import ALGORITHMS

SHOWN = ("select", "advantage", "ratio", "objective", "aggregate", "denominator")


def describe(value: object) -> str:
    """An axis in short: the name of a function, or the fields of a value that are set.

    >>> from sieverl.algorithms.objective import Clipped
    >>> describe(Clipped(0.2, 0.28))
    'Clipped(low=0.2, high=0.28)'
    >>> from sieverl.algorithms.named import dapo
    >>> describe(dapo.sampling)
    'DynamicSampling(until=mixed_groups, fresh_prompts=True, max_rounds=3)'
    """
    name = getattr(value, "name", None) or getattr(value, "__name__", None)
    if isinstance(name, str):
        return name
    if value == DynamicSampling():
        return "once"
    if not is_dataclass(value):
        return repr(value)
    parts = [(field, getattr(value, field.name)) for field in fields(value)]
    shown = [f"{field.name}={describe(part)}" for field, part in parts if part != field.default or part]
    return f"{type(value).__name__}({', '.join(shown)})"


def explain(value: object) -> str:
    """The first sentence of what an axis says of itself."""
    doc = inspect.getdoc(value) or ""
    return doc.split("\n\n")[0].replace("\n", " ") if callable(value) else ""


def markdown() -> str:
    """The table of docs/algorithms.md: rows algorithms, columns axes."""
    lines = ["| algorithm | " + " | ".join(SHOWN) + " |", "|-" * (len(SHOWN) + 1) + "|"]
    for name, value in ALGORITHMS.items():
        cells = [describe(getattr(value, axis)).replace("low=", "").replace("high=", "") for axis in SHOWN]
        lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def formula(algorithm: Algorithm) -> str:
    """The loss in one line, put together from the axes.

    >>> from sieverl.algorithms.named import raft
    >>> formula(raft)
    'loss = 1/(kept responses) sum over kept [correct] of 1/|a| sum_t log_prob(A_t); A = one'
    """
    count = {
        "sequence_mean": f"1/({algorithm.denominator} responses)",
        "token_mean": f"1/({algorithm.denominator} tokens)",
        "constant_length": f"1/({algorithm.denominator} responses * max_tokens)",
        "pair_mean": "1/(pairs)",
    }[algorithm.aggregate.name]
    inner = {"sequence_mean": "1/|a| sum_t ", "pair_mean": ""}.get(algorithm.aggregate.name, "sum_t ")
    kept = f"[{describe(algorithm.select)}]"
    per_token = describe(algorithm.token_advantage)
    by_token = "" if per_token == "to_tokens" else f", by token {per_token}"
    ratio = f" with s {describe(algorithm.ratio)}" if "ratio" in algorithm.needs else ""
    penalties = "".join(
        f" + {p.coefficient:g} {describe(p.function)} over {p.denominator}" for p in algorithm.penalties
    )
    return (
        f"loss = {count} sum over kept {kept} of {inner}{describe(algorithm.objective)}(A_t){ratio}{penalties}; "
        f"A = {describe(algorithm.advantage)}{by_token}"
    )
