"""What a function of an algorithm declares that it needs: groups, a greedy response, reference log-probs, values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


def needs(*what: str) -> Callable[[F], F]:
    """Declare what a function needs: `group` (two or more responses a prompt), `greedy`, `pair`, `ref`, `value`, ..."""

    def mark(function: F) -> F:
        function.needs = frozenset(what)  # type: ignore[attr-defined]
        return function

    return mark


def needs_of(function: object) -> frozenset[str]:
    """What `function` has declared with `needs`; nothing by default."""
    return frozenset(getattr(function, "needs", ()))


def ratio_free(function: F) -> F:
    """Declare that a function of tokens looks neither at the ratio nor at old log-probs; any other one may."""
    function.ratio_free = True  # type: ignore[attr-defined]
    return function
