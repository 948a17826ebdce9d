"""Where responses come from: prompts on one side, the engine that samples and the pool that verifies on the other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from sieverl.distributed.world import World
from sieverl.engines.protocol import Engine, SamplingParams
from sieverl.types import Progress, Prompt, Tokenizer, unwatched
from sieverl.verify import Pool


@dataclass(frozen=True)
class PromptSet:
    """Prompts with their token ids, how they are sampled, and the seed of the sampling noise."""

    prompts: Sequence[Prompt]
    prompt_tokens: Sequence[Sequence[int]]
    sampling: SamplingParams
    seed: int


@dataclass(frozen=True)
class Environment:
    """What samples and verifies, the same for training and evaluation; `world` are the ranks that share the work."""

    engine: Engine
    pool: Pool
    tokenizer: Tokenizer
    world: World = field(default_factory=World)
    progress: Progress = unwatched

    def reasons_since(self, before: Counter[str]) -> Counter[str]:
        """Why the verifier failed since it had given the reasons `before`, on all ranks: message -> count."""
        parts: list[Counter[str]] = self.world.all_gather(self.pool.reasons - before)
        return sum(parts, Counter())
