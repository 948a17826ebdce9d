"""The engines that `rollout.engine` can name. Their libraries are imported once an engine is built."""

from __future__ import annotations

from sieverl.engines.builtin import BuiltinEngine
from sieverl.engines.protocol import EngineClass
from sieverl.engines.transformers import TransformersEngine
from sieverl.engines.vllm import VllmEngine
from sieverl.engines.vllm_server import VllmServerEngine

ENGINES: dict[str, EngineClass] = {
    "torch": BuiltinEngine,
    "transformers": TransformersEngine,
    "vllm": VllmEngine,
    "vllm_server": VllmServerEngine,
}
OPTIONS = frozenset[str]().union(*(engine.options for engine in ENGINES.values()))
"""The keys of the rollout table that are for some engines only."""
