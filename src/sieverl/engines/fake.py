"""An engine without a model, for tests of the code around engines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from sieverl.engines.protocol import OnDone, Request, SamplingParams
from sieverl.types import Rollout


class FakeEngine:
    """Answers with `respond(request, sample) -> token ids`; log-probs are -1; longer responses are truncated."""

    def __init__(self, respond: Callable[[Request, int], Sequence[int]]) -> None:
        self.respond = respond
        self.version = -1

    def sample(
        self, requests: Sequence[Request], sampling: SamplingParams, on_done: OnDone | None = None
    ) -> list[Rollout]:
        rollouts = []
        for request in requests:
            for sample in range(request.first, request.first + request.samples):
                tokens = list(self.respond(request, sample))[: sampling.max_tokens]
                truncated = not tokens or tokens[-1] not in sampling.eos
                logp = [-1.0] * len(tokens)
                rollouts.append(
                    Rollout(request.prompt_id, sample, tokens, logp, truncated, request.group, request.prompt_tokens)
                )
                if on_done:
                    on_done(rollouts[-1])
        return rollouts

    def load(self, weights: Mapping[str, Tensor], version: int) -> None:
        self.version = version
