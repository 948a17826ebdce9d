"""An engine in a process of its own, with weights of its own: it samples while the learner trains."""

from __future__ import annotations

import faulthandler
import signal
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor
from torch import multiprocessing as mp

from sieverl.engines.protocol import Engine, OnDone, Request, SamplingParams
from sieverl.errors import EngineError, SieveRLError, first_line
from sieverl.model.policy import Policy
from sieverl.types import Rollout

Build = Callable[[], tuple[Policy, Engine]]
SILENT = 1800.0  # seconds without a response after which the process counts as stuck


class ProcessEngine:
    """Runs the engine that `build` makes, from the policy that it makes, in another process.

    `build` is called there and must be picklable. Weights go through shared memory. Raises an EngineError when the
    process ends or stays silent; errors for people that are raised there are raised here.
    """

    def __init__(self, build: Build) -> None:
        context = mp.get_context("spawn")
        self._connection, other = context.Pipe()
        self.process = context.Process(target=serve, args=(other, build), daemon=True)
        self.process.start()
        other.close()
        self.version = 0
        self._shared: dict[str, Tensor] = {}
        self._receive("ready")

    def load(self, weights: Mapping[str, Tensor], version: int) -> None:
        """Copy the weights to the process."""
        if not self._shared:
            self._shared = {name: torch.empty(x.shape, dtype=x.dtype).share_memory_() for name, x in weights.items()}
        for name, shared in self._shared.items():
            shared.copy_(weights[name])
        self._send("load", self._shared, version)
        self._receive("loaded")
        self.version = version

    def sample(
        self, requests: Sequence[Request], sampling: SamplingParams, on_done: OnDone | None = None
    ) -> list[Rollout]:
        """One `Rollout` for each sample of each request, in order."""
        self._send("sample", requests, sampling)
        done: dict[tuple[int, int, int], Rollout] = {}
        order = [(i, r.first + s) for i, r in enumerate(requests) for s in range(r.samples)]
        for _ in order:
            rollout = self._receive("rollout")
            done[rollout.group, rollout.prompt_id, rollout.sample] = rollout
            if on_done:
                on_done(rollout)
        self._receive("sampled")
        return [done[requests[i].group, requests[i].prompt_id, sample] for i, sample in order]

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self.process.join(1.0)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()

    def _send(self, *order: object) -> None:
        try:
            self._connection.send(order)
        except OSError as error:
            raise self._ended() from error

    def _receive(self, expected: str) -> Any:
        """The next message, which is what is `expected` of the process or the error that it met."""
        silent_since = time.monotonic()
        try:
            while not self._connection.poll(1.0):
                if not self.process.is_alive():
                    raise self._ended()
                if time.monotonic() - silent_since > SILENT:
                    raise EngineError(
                        f"the engine's process has not answered for {SILENT / 60:.0f} minutes; the same command "
                        "resumes from the last checkpoint"
                    )
            kind, value = self._connection.recv()
        except (EOFError, OSError) as error:
            raise self._ended() from error
        if kind == "error":
            raise value
        assert kind == expected, (kind, expected)
        return value

    def _ended(self) -> EngineError:
        self.process.join(5.0)
        return EngineError(
            f"the engine's process ended (exit code {self.process.exitcode}; -9 is often too little memory); the same "
            "command resumes from the last checkpoint"
        )


def serve(connection: Connection, build: Build) -> None:
    """What the process does: build the engine, then carry out orders until the other end is closed."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the trainer decides when to stop
        signal.signal(number, signal.SIG_IGN)
    faulthandler.register(signal.SIGUSR1)  # the trainer asks where this process is stuck

    def rollout(done: Rollout) -> None:
        connection.send(("rollout", done))

    try:
        policy, engine = build()
        connection.send(("ready", None))
        while True:
            order, *arguments = connection.recv()
            if order == "load":
                weights, version = arguments
                with torch.no_grad():
                    for name, own in policy.weights().items():
                        own.copy_(weights[name])
                engine.load(policy.weights(), version)
                connection.send(("loaded", None))
            else:
                requests, sampling = arguments
                engine.sample(requests, sampling, rollout)
                connection.send(("sampled", None))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the trainer has gone
    except SieveRLError as error:
        connection.send(("error", error))
    except Exception as error:  # whatever fails here, the trainer is told and this process prints where
        traceback.print_exc()
        connection.send(("error", EngineError(f"the engine failed: {type(error).__name__}: {first_line(error)}")))
