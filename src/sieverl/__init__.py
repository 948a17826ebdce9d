"""SieveRL: reinforcement learning from verifiable rewards that trains only on the responses that teach."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sieverl.algorithms.algorithm import Algorithm as Algorithm
    from sieverl.algorithms.algorithm import Critic as Critic
    from sieverl.algorithms.algorithm import DynamicSampling as DynamicSampling
    from sieverl.algorithms.named import get_algorithm as get_algorithm
    from sieverl.algorithms.objective import Penalty as Penalty
    from sieverl.algorithms.tokens import Tokens as Tokens
    from sieverl.api.evaluate import evaluate as evaluate
    from sieverl.api.saved import TrainedRun as TrainedRun
    from sieverl.api.saved import load_run as load_run
    from sieverl.api.train import train as train
    from sieverl.migrate.trl import from_trl as from_trl
    from sieverl.migrate.verl import from_verl as from_verl
    from sieverl.recipe.recipe import Recipe as Recipe
    from sieverl.types import Responses as Responses
    from sieverl.types import Status as Status
    from sieverl.types import Verdict as Verdict


__version__ = "0.1.0"
# Public names and where they are; loaded when first used, so that `import sieverl` and help are immediate.
_PUBLIC = {
    "Algorithm": "sieverl.algorithms.algorithm",
    "Critic": "sieverl.algorithms.algorithm",
    "DynamicSampling": "sieverl.algorithms.algorithm",
    "Penalty": "sieverl.algorithms.objective",
    "Recipe": "sieverl.recipe",
    "Responses": "sieverl.types",
    "Status": "sieverl.types",
    "Tokens": "sieverl.algorithms.tokens",
    "TrainedRun": "sieverl.api.saved",
    "Verdict": "sieverl.types",
    "evaluate": "sieverl.api.evaluate",
    "from_trl": "sieverl.migrate.trl",
    "from_verl": "sieverl.migrate.verl",
    "get_algorithm": "sieverl.algorithms.named",
    "load_run": "sieverl.api.saved",
    "train": "sieverl.api.train",
}
_RENAMED = {"Draw": "DynamicSampling"}  # old name -> new name
__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    name = _RENAMED.get(name, name)
    if name not in _PUBLIC:
        raise AttributeError(f"module 'sieverl' has no attribute {name!r}; public names are {', '.join(_PUBLIC)}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
