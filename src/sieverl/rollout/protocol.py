"""What an engine is: tokens in, tokens and log-probs out. Any object with `sample` and `load` will do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sieverl.types import Rollout


@dataclass(frozen=True)
class Request:
    """`samples` responses to one prompt: sample indices `first` to `first + samples - 1`.

    Noise is a function of (`seed`, `prompt`, sample, position); `group` is for the caller and comes back with each
    rollout.
    """

    prompt: int
    tokens: Sequence[int]
    samples: int
    seed: int = 0
    first: int = 0
    group: int = 0


@dataclass(frozen=True)
class Sampling:
    """How responses are drawn. Temperature 0 is greedy. Every id of `eos` and every string of `stop` ends a response.

    `top_p` below 1 and `top_k` above 0 are for evaluation only: they change the distribution that log-probs refer to.
    """

    max_tokens: int
    eos: tuple[int, ...]
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    stop: tuple[str, ...] = ()


OnDone = Callable[[Rollout], None]


class Engine(Protocol):
    """`sample` answers requests in order, sample by sample, and calls `on_done` as responses finish, in any order."""

    def sample(
        self, requests: Sequence[Request], sampling: Sampling, on_done: OnDone | None = None
    ) -> list[Rollout]: ...

    def load(self, model: Any, version: int) -> None:
        """Take the weights of `model`; `version` is the number of steps they were trained for."""
        ...
