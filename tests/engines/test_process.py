"""An engine in a process of its own: the same responses, its weights its own, and an end that is told."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import pytest
import torch
from torch import Tensor

from sieverl.assets import BASE
from sieverl.engines.builtin import BuiltinEngine
from sieverl.engines.process import ProcessEngine
from sieverl.engines.protocol import Engine, OnDone, Request, SamplingParams
from sieverl.errors import EngineError, UsageError
from sieverl.model.load import load_policy, load_tokenizer
from sieverl.model.policy import Policy
from sieverl.types import Rollout

REQUESTS = [Request(3, [5, 6, 7], 2, seed=1), Request(3, [5, 6, 7], 1, seed=1, first=2, group=1), Request(9, [8], 2)]
SAMPLING = SamplingParams(6, (0,))


def policy() -> Policy:
    return load_policy(str(BASE), load_tokenizer(str(BASE)), "float32", "cpu")


def build() -> tuple[Policy, Engine]:
    """The shipped model on one thread."""
    torch.set_num_threads(1)
    made = policy()
    return made, BuiltinEngine(made)


class Failing:
    """Fails in the way it was told to."""

    version = 0

    def __init__(self, how: str) -> None:
        self.how = how

    def load(self, weights: Mapping[str, Tensor], version: int) -> None:
        raise AssertionError

    def sample(
        self, requests: Sequence[Request], sampling: SamplingParams, on_done: OnDone | None = None
    ) -> list[Rollout]:
        if self.how == "usage":
            raise UsageError("no such option")
        if self.how == "defect":
            raise KeyError("lost")
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


def build_failing(how: str) -> tuple[Policy, Engine]:
    return policy(), Failing(how)


@pytest.fixture(scope="module")
def engine() -> Iterator[ProcessEngine]:
    made = ProcessEngine(build)
    yield made
    made.close()
    assert not made.process.is_alive()


def test_it_samples_what_the_engine_would_and_takes_new_weights(engine: ProcessEngine) -> None:
    torch.set_num_threads(1)
    own = policy()
    ended: list[Rollout] = []
    assert engine.sample(REQUESTS, SAMPLING, ended.append) == BuiltinEngine(own).sample(REQUESTS, SAMPLING)
    assert len(ended) == 5
    before = engine.sample(REQUESTS, SAMPLING)
    with torch.no_grad():
        for parameter in own.model.parameters():
            parameter.mul_(1.5)
    assert engine.sample(REQUESTS, SAMPLING) == before, "its weights are its own"
    engine.load(own.weights(), 1)
    assert engine.version == 1
    after = engine.sample(REQUESTS, SAMPLING)
    assert after == BuiltinEngine(own).sample(REQUESTS, SAMPLING) != before


def test_it_prints_its_stacks_when_it_is_asked_to(capfd: pytest.CaptureFixture[str]) -> None:
    engine = ProcessEngine(build)
    try:
        assert engine.process.pid is not None
        os.kill(engine.process.pid, signal.SIGUSR1)
        engine.sample(REQUESTS, SAMPLING)
        assert "in serve" in capfd.readouterr().err, "and goes on"
    finally:
        engine.close()


@pytest.mark.parametrize(
    ("how", "kind", "said"),
    [
        pytest.param("usage", UsageError, "no such option", marks=pytest.mark.slow),
        pytest.param("defect", EngineError, "the engine failed: KeyError", marks=pytest.mark.slow),
        ("killed", EngineError, "exit code -9"),
    ],
)
def test_what_fails_there_is_told_here(how: str, kind: type[Exception], said: str) -> None:
    engine = ProcessEngine(partial(build_failing, how))
    with pytest.raises(kind, match=said):
        engine.sample(REQUESTS, SAMPLING)
    with pytest.raises(EngineError, match="process ended"):
        engine.sample(REQUESTS, SAMPLING)
    engine.close()


@pytest.mark.slow
def test_an_engine_that_cannot_be_built() -> None:
    with pytest.raises(EngineError, match="TypeError"):
        ProcessEngine(partial(build_failing))
