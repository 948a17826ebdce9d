"""Continuous batching of transformers as an engine: paged memory and, on a GPU, its CUDA graphs and flash attention.

It samples from the learner's own weights, as the built-in engine does. But noise comes from PyTorch's generator, in the
order in which the library schedules the responses, and log-probs from other kernels than the learner's: the learner
scores its own beside them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import ContinuousBatchingConfig, GenerationConfig

from sieverl.engines.protocol import OnDone, Request, SamplingParams
from sieverl.errors import UsageError
from sieverl.model import attention
from sieverl.model.policy import Policy
from sieverl.types import Rollout

PAGE = 256  # tokens of a page of keys and values: what flash attention asks for
FORWARD = 1024  # tokens of a forward, at least
INSTEAD = 'use rollout.engine = "torch"'


class TransformersEngine:
    """Samples from `policy.model`, at most `max_num_seqs` responses at a time."""

    stop_strings = False

    @staticmethod
    def on_policy(dtype: str) -> bool:
        """Its kernels round otherwise than the learner's."""
        return False

    def __init__(self, policy: Policy, max_num_seqs: int = 512) -> None:
        self.policy = policy
        self.max_num_seqs = max_num_seqs
        self.version = 0

    def load(self, weights: Mapping[str, Tensor], version: int) -> None:
        """The weights are the learner's own: only the version is taken."""
        self.version = version

    def sample(
        self, requests: Sequence[Request], sampling: SamplingParams, on_done: OnDone | None = None
    ) -> list[Rollout]:
        """One `Rollout` for each sample of each request, in order.

        Every response is a request of its own to the library: forked ones would share their first token
        (transformers 5.19 forks after it is drawn).
        """
        if sampling.stop:
            raise UsageError(f"continuous batching knows no stop strings; {INSTEAD}")
        wanted = [(r, r.first + i) for r in requests for i in range(r.samples)]
        done: dict[int, Rollout] = {}
        with torch.no_grad(), self.policy.computing(), self._serving(requests, sampling) as manager:
            for i, (request, _) in enumerate(wanted):
                manager.add_request(list(request.prompt_tokens), request_id=str(i))
            while len(done) < len(wanted):
                result = manager.get_result(timeout=1)
                if result is None and manager.is_running():
                    continue
                if result is None or result.error is not None:
                    why = result.error if result else manager.background_thread_status.fatal_error
                    raise UsageError(f"continuous batching stopped: {why}; {INSTEAD}")
                i = int(result.request_id)
                request, sample = wanted[i]
                tokens, logp = result.generated_tokens, result.logprobs
                cut = tokens[-1] not in sampling.eos
                done[i] = Rollout(request.prompt_id, sample, tokens, logp, cut, request.group, request.prompt_tokens)
                if on_done:
                    on_done(done[i])
        return [done[i] for i in range(len(wanted))]

    @contextlib.contextmanager
    def _serving(self, requests: Sequence[Request], sampling: SamplingParams) -> Iterator[Any]:
        """A running manager of the library's, with memory for as many of the responses as `max_num_seqs`."""
        model = self.policy.causal
        before = model.config._attn_implementation
        if before == attention.NAME:  # which knows no pages
            model.set_attn_implementation("sdpa")
        manager = None
        try:
            try:
                drawn, memory = how(sampling, self.policy.pad), self._memory(requests, sampling)
                manager = model.init_continuous_batching(drawn, memory)
                manager.warmup()  # CUDA graphs, on a GPU
            except Exception as error:  # a family that it does not take may fail in any way
                raise UsageError(f"{type(model).__name__} takes no continuous batching: {error}; {INSTEAD}") from error
            manager.start()
            yield manager
        finally:
            if manager is not None:
                if manager.is_running():
                    manager.stop(block=True, hard_stop=True)
                manager.destroy()
            model.set_attn_implementation(before)

    def _memory(self, requests: Sequence[Request], sampling: SamplingParams) -> ContinuousBatchingConfig:
        rows = min(self.max_num_seqs, sum(r.samples for r in requests))
        longest = max(len(r.prompt_tokens) for r in requests) + sampling.max_tokens
        entropy = [x for r in requests for x in (r.seed, r.prompt_id, r.first)]
        return ContinuousBatchingConfig(
            page_size=PAGE,
            num_blocks=rows * -(-longest // PAGE),
            max_batch_tokens=max(FORWARD, rows),
            max_requests_per_batch=rows,
            return_logprobs=True,
            seed=int(np.random.SeedSequence(entropy).generate_state(1)[0]),
        )


def how(sampling: SamplingParams, pad: int) -> GenerationConfig:
    """Our sampling in the library's words."""
    drawn: dict[str, Any] = {"do_sample": False}
    if sampling.temperature:
        drawn = {
            "do_sample": True,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
        }
    return GenerationConfig(
        max_new_tokens=sampling.max_tokens, eos_token_id=list(sampling.eos), pad_token_id=pad, **drawn
    )
