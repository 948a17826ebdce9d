"""The engines that `rollout.engine` can name."""

from __future__ import annotations

from sieverl.engines.builtin import BuiltinEngine
from sieverl.engines.protocol import EngineClass
from sieverl.engines.transformers import TransformersEngine

ENGINES: dict[str, EngineClass] = {"torch": BuiltinEngine, "transformers": TransformersEngine}
