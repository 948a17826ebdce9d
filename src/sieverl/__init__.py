"""SieveRL: reinforcement learning from verifiable rewards that trains only on the responses that teach."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sieverl.algorithm import Algorithm as Algorithm
    from sieverl.algorithm import Critic as Critic
    from sieverl.algorithm import Draw as Draw
    from sieverl.algorithms import get_algorithm as get_algorithm
    from sieverl.objective import Penalty as Penalty
    from sieverl.objective import Tokens as Tokens
    from sieverl.types import Responses as Responses
    from sieverl.types import Status as Status
    from sieverl.types import Verdict as Verdict

__version__ = "0.1.0"

# Public names and where they are; loaded when first used, so that `import sieverl` and help are immediate.
_PUBLIC = {
    "Algorithm": "sieverl.algorithm",
    "Critic": "sieverl.algorithm",
    "Draw": "sieverl.algorithm",
    "Penalty": "sieverl.objective",
    "Responses": "sieverl.types",
    "Status": "sieverl.types",
    "Tokens": "sieverl.objective",
    "Verdict": "sieverl.types",
    "get_algorithm": "sieverl.algorithms",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'sieverl' has no attribute {name!r}; public names are {', '.join(_PUBLIC)}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
