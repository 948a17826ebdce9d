"""Continuous batching of transformers as an engine: a paged KV cache and, on a GPU, CUDA graphs and flash attention.

It samples from the learner's own weights, as the built-in engine does. But noise comes from PyTorch's generator, in the
order in which transformers schedules the responses, and log-probs from other kernels than the learner's, so that they
count as off-policy.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from transformers import ContinuousBatchingConfig, GenerationConfig

from sieverl.distributed.world import World
from sieverl.engines.protocol import OnDone, Request, SamplingParams
from sieverl.errors import EngineError, UsageError
from sieverl.model import attention
from sieverl.model.policy import Policy
from sieverl.recipe import Rollout as Settings
from sieverl.types import Rollout

if TYPE_CHECKING:
    from transformers import ContinuousBatchingManager

PAGE = 256  # tokens in a page of the KV cache: what flash attention asks for
FORWARD = 1024  # tokens in a forward, at least
INSTEAD = 'use rollout.engine = "torch"'


class TransformersEngine:
    """Samples from `policy.model`, at most `max_num_seqs` responses at a time."""

    shares_weights = True
    sharded = False
    stop_strings = False
    float64 = True
    options = frozenset[str]()

    @staticmethod
    def on_policy(dtype: str) -> bool:
        """Its kernels round differently from the learner's."""
        return False

    @staticmethod
    def build(policy: Policy, settings: Settings, world: World) -> TransformersEngine:
        """An engine for a run."""
        return TransformersEngine(policy, settings.max_num_seqs)

    def __init__(self, policy: Policy, max_num_seqs: int = 512) -> None:
        self.policy = policy
        self.max_num_seqs = max_num_seqs
        self.version = 0

    def load(self, weights: Mapping[str, Tensor], version: int) -> None:
        """The weights are the learner's own: only the version is stored."""
        self.version = version

    def sample(
        self, requests: Sequence[Request], sampling: SamplingParams, on_done: OnDone | None = None
    ) -> list[Rollout]:
        """One `Rollout` for each sample of each request, in order.

        Every response is a request of its own to transformers: forked ones would share their first token
        (transformers 5.19 forks after sampling it). Raises a UsageError for what continuous batching does not support.
        """
        if sampling.stop:
            raise UsageError(f"continuous batching does not support stop strings; {INSTEAD}")
        samples = [(r, r.first + i) for r in requests for i in range(r.samples)]
        if not samples:  # of this rank
            return []
        done: dict[int, Rollout] = {}
        with torch.no_grad(), self.policy.in_compute_dtype(), self._serving(requests, sampling) as manager:
            for i, (request, _) in enumerate(samples):
                manager.add_request(list(request.prompt_tokens), request_id=str(i))
            while len(done) < len(samples):
                result = manager.get_result(timeout=1)
                if result is None and manager.is_running():
                    continue
                if result is None or result.error is not None:
                    why = result.error if result else manager.background_thread_status.fatal_error
                    raise EngineError(f"continuous batching stopped: {why}; {INSTEAD}")
                i = int(result.request_id)
                request, sample = samples[i]
                tokens, logp = result.generated_tokens, result.logprobs
                truncated = tokens[-1] not in sampling.eos
                done[i] = Rollout(
                    request.prompt_id, sample, tokens, logp, truncated, request.group, request.prompt_tokens
                )
                if on_done:
                    on_done(done[i])
        return [done[i] for i in range(len(samples))]

    @contextlib.contextmanager
    def _serving(self, requests: Sequence[Request], sampling: SamplingParams) -> Iterator[ContinuousBatchingManager]:
        """A running manager, with a KV cache for at most `max_num_seqs` of the responses."""
        model = self.policy.causal
        before = model.config._attn_implementation
        if before == attention.NAME:  # which does not support a paged cache
            model.set_attn_implementation("sdpa")
        manager = None
        try:
            try:
                manager = model.init_continuous_batching(
                    generation_config(sampling, self.policy.pad), self._batching_config(requests, sampling)
                )
                manager.warmup()  # CUDA graphs, on a GPU
            except Exception as error:  # an unsupported model may fail in any way
                raise UsageError(
                    f"{type(model).__name__} does not support continuous batching: {error}; {INSTEAD}"
                ) from error
            manager.start()
            yield manager
        finally:
            if manager is not None:
                if manager.is_running():
                    manager.stop(block=True, hard_stop=True)
                manager.destroy()
            model.set_attn_implementation(before)

    def _batching_config(self, requests: Sequence[Request], sampling: SamplingParams) -> ContinuousBatchingConfig:
        """Sizes for at most `max_num_seqs` of the responses, and a seed that depends on the requests alone."""
        sequences = min(self.max_num_seqs, sum(r.samples for r in requests))
        longest = max(len(r.prompt_tokens) for r in requests) + sampling.max_tokens
        entropy = [x for r in requests for x in (r.seed, r.prompt_id, r.first)]
        return ContinuousBatchingConfig(
            page_size=PAGE,
            num_blocks=sequences * -(-longest // PAGE),
            max_batch_tokens=max(FORWARD, sequences),
            max_requests_per_batch=sequences,
            return_logprobs=True,
            seed=int(np.random.SeedSequence(entropy).generate_state(1)[0]),
        )


def generation_config(sampling: SamplingParams, pad: int) -> GenerationConfig:
    """The sampling parameters as transformers names them."""
    given: dict[str, float] = {"do_sample": False}
    if sampling.temperature:
        given = {
            "do_sample": True,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
        }
    return GenerationConfig(
        max_new_tokens=sampling.max_tokens, eos_token_id=list(sampling.eos), pad_token_id=pad, **given
    )
