"""The engine protocol: token ids in, token ids and log-probs out. An object with `sample` and `load` is an engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from sieverl.distributed.world import World
from sieverl.model.policy import Policy
from sieverl.recipe import Rollout as Settings
from sieverl.types import Rollout


@dataclass(frozen=True)
class Request:
    """`samples` responses to one prompt: sample indices `first` to `first + samples - 1`.

    Noise is a function of (`seed`, `prompt_id`, sample, position). `group` is a number of the caller's; it and the
    prompt's tokens are returned with each rollout.
    """

    prompt_id: int
    prompt_tokens: Sequence[int]
    samples: int
    seed: int = 0
    first: int = 0
    group: int = 0


@dataclass(frozen=True)
class SamplingParams:
    """How responses are sampled: at most `max_tokens` tokens, until an id of `eos` or a string of `stop`.

    Temperature 0 is greedy. `top_p` below 1 and `top_k` above 0 are for evaluation only: they change the distribution
    that log-probs refer to.
    """

    max_tokens: int
    eos: tuple[int, ...]
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    stop: tuple[str, ...] = ()


OnDone = Callable[[Rollout], None]


class Engine(Protocol):
    """Samples responses from the current weights; `version` is that of the newest it has loaded."""

    @property
    def version(self) -> int: ...

    def sample(
        self, requests: Sequence[Request], sampling: SamplingParams, on_done: OnDone | None = None
    ) -> list[Rollout]:
        """Responses in the order of the requests, sample by sample; `on_done` gets each when it ends, in any order."""
        ...

    def load(self, weights: Mapping[str, Tensor], version: int) -> None:
        """Use new weights, given by parameter name; `version` is the number of steps trained.

        A sharded tensor is put together, which every rank takes part in.
        """
        ...


class EngineClass(Protocol):
    """An engine that a recipe can name, and what it supports."""

    shares_weights: bool  # whether it samples from the learner's own tensors, so that one waits for the other
    sharded: bool  # whether it samples from a policy that is sharded over ranks
    stop_strings: bool  # whether responses end at `SamplingParams.stop`
    float64: bool  # whether it computes in float64
    options: frozenset[str]  # the keys of the recipe's rollout table that are for this engine only

    def build(self, policy: Policy, settings: Settings, world: World) -> Engine:
        """An engine for a run; its weights are those of the policy only once `load` was called."""
        ...

    def on_policy(self, dtype: str) -> bool:
        """Whether its log-probs in `dtype` equal the learner's, so that no importance sampling is needed."""
        ...
