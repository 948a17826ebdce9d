"""Stand-ins for what a run is connected to: a tokenizer of characters, an engine that recites, ranks as threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from os import PathLike
from typing import Any, TypeVar

from torch import Tensor

from sieverl.distributed.world import World
from sieverl.engines.fake import FakeEngine
from sieverl.engines.protocol import OnDone, Request, SamplingParams
from sieverl.rollout.environment import Environment, PromptSet
from sieverl.types import Prompt, Rollout
from sieverl.verify import Pool

T = TypeVar("T")
END = "\n"  # ends a response, and is no part of its text


class Characters:
    """A tokenizer of one token a character; its only special token is `END`."""

    name_or_path = "characters"
    chat_template: str | None = None
    pad_token_id: int | None = None
    eos_token_id: int | None = ord(END)
    unk_token_id: int | None = None

    def __call__(self, text: str, *, add_special_tokens: bool = True) -> Mapping[str, list[int]]:
        return {"input_ids": self.encode(text)}

    def __len__(self) -> int:
        return 128

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return [ord(character) for character in text]

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        text = "".join(map(chr, token_ids))
        return text.replace(END, "") if skip_special_tokens else text

    def batch_decode(self, sequences: Sequence[Sequence[int]], **options: object) -> list[str]:
        return [self.decode(tokens) for tokens in sequences]

    def get_vocab(self) -> dict[str, int]:
        return {chr(token): token for token in range(len(self))}

    def get_added_vocab(self) -> dict[str, int]:
        return {}

    def save_pretrained(self, save_directory: str | PathLike[str]) -> object:
        raise NotImplementedError

    def apply_chat_template(self, conversation: object, *, tokenize: bool, add_generation_prompt: bool) -> str:
        raise NotImplementedError


class Reciting(FakeEngine):
    """Says `said[prompt id][sample]`, at temperature 0 `greedy[prompt id]`; keeps every request it was given."""

    def __init__(self, said: Mapping[int, Sequence[str]], greedy: Mapping[int, str] | None = None) -> None:
        super().__init__(lambda request, sample: Characters().encode(said[request.prompt_id][sample]))
        self.greedy = FakeEngine(lambda request, sample: Characters().encode((greedy or {})[request.prompt_id]))
        self.asked: list[Request] = []
        self.asked_greedily: list[Request] = []

    def sample(
        self, requests: Sequence[Request], sampling: SamplingParams, on_done: OnDone | None = None
    ) -> list[Rollout]:
        (self.asked if sampling.temperature else self.asked_greedily).extend(requests)
        if sampling.temperature == 0:
            return self.greedy.sample(requests, sampling, on_done)
        return super().sample(requests, sampling, on_done)


def environment(
    engine: FakeEngine, answers: Sequence[str], max_tokens: int = 40, world: World | None = None
) -> tuple[Environment, PromptSet]:
    """Prompts 0, 1, ... with these answers, a verifier of numbers, and the engine."""
    prompts = [Prompt(i, f"q{i}", {"answer": answer}) for i, answer in enumerate(answers)]
    sampling = SamplingParams(max_tokens, (ord(END),))
    prompt_set = PromptSet(prompts, [[1]] * len(prompts), sampling, seed=0)
    return Environment(engine, Pool({"name": "number"}), Characters(), world or World()), prompt_set


@dataclass
class _Meeting:
    """Where the threads of `on_ranks` exchange values, one exchange after the other."""

    barrier: threading.Barrier
    values: dict[int, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ThreadWorld(World):
    """A rank that is a thread of this process."""

    meeting: _Meeting = field(default_factory=lambda: _Meeting(threading.Barrier(1)))

    def all_gather(self, value: Any) -> list[Any]:
        self.meeting.values[self.rank] = value
        self.meeting.barrier.wait()
        out = [self.meeting.values[rank] for rank in range(self.size)]
        self.meeting.barrier.wait()
        return out

    def all_reduce(self, tensor: Tensor) -> Tensor:
        total = sum(self.all_gather(tensor.clone()))
        return tensor.copy_(total)


def on_ranks(size: int, function: Callable[[World], T]) -> list[T]:
    """What `function` returns on each of `size` ranks, which run as threads. One that fails breaks off the others."""
    meeting = _Meeting(threading.Barrier(size, timeout=60))

    def rank(number: int) -> T:
        try:
            return function(ThreadWorld(number, size, meeting=meeting))
        except BaseException:
            meeting.barrier.abort()
            raise

    with ThreadPoolExecutor(size) as threads:
        return list(threads.map(rank, range(size)))
