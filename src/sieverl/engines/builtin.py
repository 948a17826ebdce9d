"""The built-in engine: any Hugging Face causal LM, on the learner's own weights (no copy, no sync on one device).

The samples of a prompt share one prefill, finished responses are evicted at once, and noise is a pure function of
(seed, prompt, sample, position). Legend: B live sequences, P prompts, R responses, L positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from sieverl.distributed.allocator import free_cached, is_out_of_memory
from sieverl.distributed.world import World
from sieverl.engines import noise
from sieverl.engines.decode_step import Step, fused_step, fused_step_agrees, model_step
from sieverl.engines.kv_cache import GROWTH, DecodingCache, KVCache, TokenHistory, TransformersCache
from sieverl.engines.protocol import OnDone, Request, SamplingParams
from sieverl.engines.sampling import sample_token
from sieverl.engines.stop_strings import stopped
from sieverl.errors import UsageError
from sieverl.model.families import Decoding, Ways
from sieverl.model.policy import Policy
from sieverl.recipe import Rollout as Settings
from sieverl.types import BoolArray, IntArray, Rollout

# In bfloat16 on a CPU a kernel is compiled for each batch size, so sequences are evicted in multiples of this.
COMPILED = 8
CACHES: dict[Decoding, Callable[[], DecodingCache]] = {
    "fused": KVCache,
    "batched": KVCache,
    "transformers_cache": TransformersCache,
    "recompute": TokenHistory,
}


@dataclass
class LiveSequences:
    """The unfinished sequences of a generation batch, [B] each.

    `response` is the number of the response in the batch, `key` its noise key, `start` how many positions of padding
    are to the left of its prompt, `token` the last sampled token.
    """

    response: IntArray
    key: noise.Bits
    start: Tensor
    token: Tensor

    def compact(self, source: IntArray, target: IntArray, live: int) -> tuple[Tensor, Tensor]:
        """Move sequences `source` to the places `target`, then keep the first `live`; the two as tensors."""
        of, to = (torch.from_numpy(x).to(self.start.device) for x in (source, target))
        self.response[target], self.key[target] = self.response[source], self.key[source]
        self.start[to], self.token[to] = self.start[of], self.token[of]
        self.response, self.key = self.response[:live], self.key[:live]
        self.start, self.token = self.start[:live], self.token[:live]
        return of, to


class Sampled:
    """The tokens and log-probs sampled so far for the R responses of a generation batch."""

    def __init__(self, requests: Sequence[Request], max_tokens: int, float64: bool) -> None:
        self.requests = requests
        self.request_R = np.repeat(np.arange(len(requests)), [r.samples for r in requests])
        self.sample_R = np.concatenate([np.arange(r.first, r.first + r.samples) for r in requests])
        self.tokens_RL = np.zeros((len(self.request_R), min(max_tokens, GROWTH)), dtype=np.int64)
        self.logps_RL = np.zeros(self.tokens_RL.shape, dtype=np.float64 if float64 else np.float32)

    def keys(self) -> noise.Bits:
        """The noise key of each response, [R]."""
        seed = np.array([r.seed for r in self.requests], dtype=np.int64)
        prompt = np.array([r.prompt_id for r in self.requests], dtype=np.int64)
        return noise.keys(seed[self.request_R], prompt[self.request_R], self.sample_R)

    def append(self, response_B: IntArray, position: int, token_B: Tensor, logp_B: Tensor) -> None:
        """Store the token at `position` of the responses `response_B`, with its log-prob."""
        if position == self.tokens_RL.shape[1]:
            self.tokens_RL = np.concatenate([self.tokens_RL, np.zeros_like(self.tokens_RL)], axis=1)
            self.logps_RL = np.concatenate([self.logps_RL, np.zeros_like(self.logps_RL)], axis=1)
        self.tokens_RL[response_B, position] = token_B.cpu().numpy()
        self.logps_RL[response_B, position] = logp_B.cpu().numpy()

    def rollout(self, response: int, length: int, truncated: bool) -> Rollout:
        """The response with the number `response`, of `length` tokens."""
        request = self.requests[self.request_R[response]]
        return Rollout(
            request.prompt_id,
            int(self.sample_R[response]),
            self.tokens_RL[response, :length].tolist(),
            self.logps_RL[response, :length].tolist(),
            truncated,
            request.group,
            request.prompt_tokens,
        )


class BuiltinEngine:
    """Samples from `policy.model`. `max_num_seqs` responses are decoded at a time; fewer once memory has run out."""

    shares_weights = True
    sharded = True
    stop_strings = True
    float64 = True
    options = frozenset[str]()

    @staticmethod
    def on_policy(dtype: str) -> bool:
        """In bfloat16 sampling and learning round differently."""
        return dtype != "bfloat16"

    @staticmethod
    def build(policy: Policy, settings: Settings, world: World) -> BuiltinEngine:
        """An engine for a run."""
        return BuiltinEngine(policy, settings.max_num_seqs)

    def __init__(self, policy: Policy, max_num_seqs: int = 512) -> None:
        self.policy = policy
        self.max_num_seqs = max_num_seqs
        self.version = 0
        self.ways = supported_ways(policy)
        self.decoding = self.ways.decoding
        self.steps = 0  # decode steps so far
        # sequences in them, summed: the live ones and, where `eviction_multiple` is not 1, a few finished ones
        self.slots = 0

    @property
    def eviction_multiple(self) -> int:
        """Sequences are evicted in multiples of this."""
        compiled = self.policy.compute == torch.bfloat16 and self.policy.device.type == "cpu"
        return COMPILED if self.decoding == "fused" and compiled else 1

    def load(self, weights: Mapping[str, Tensor], version: int) -> None:
        """The weights are the learner's own: only the version is stored."""
        self.version = version

    def sample(
        self, requests: Sequence[Request], sampling: SamplingParams, on_done: OnDone | None = None
    ) -> list[Rollout]:
        """One `Rollout` for each sample of each request, in order."""
        groups: dict[int, list[Rollout]] = {}
        model = self.policy.model
        training = model.training
        model.eval()
        try:
            with torch.no_grad(), self.policy.gathered(), self.policy.in_compute_dtype():
                step = (fused_step(self.policy) if self.decoding == "fused" else None) or model_step(self.policy)
                for numbers in self.batches(requests):
                    batch = [requests[i] for i in numbers]
                    rollouts = iter(self._in_memory(batch, sampling, step, on_done))
                    groups |= {i: list(islice(rollouts, requests[i].samples)) for i in numbers}
        finally:
            model.train(training)
        return [rollout for i in range(len(requests)) for rollout in groups[i]]

    def batches(self, requests: Sequence[Request]) -> list[list[int]]:
        """The places of the requests of each generation batch. One that is sampled alone gives the same bits."""
        same_length = self.decoding in ("transformers_cache", "recompute")  # these ways do not support padding
        order = sorted(range(len(requests)), key=lambda i: len(requests[i].prompt_tokens) if same_length else 0)
        places = iter(order)
        found = generation_batches([requests[i] for i in order], self.max_num_seqs, same_length)
        return [list(islice(places, len(batch))) for batch in found]

    def _in_memory(
        self, requests: Sequence[Request], sampling: SamplingParams, step: Step, on_done: OnDone | None
    ) -> list[Rollout]:
        """The responses of one generation batch, in order; where memory runs out, the rest of them by halves.

        Later batches are as small. Raises a UsageError where a single response is too much.
        """
        done: dict[int, Rollout] = {}
        try:
            self._generate(requests, sampling, step, on_done, done)
            return [done[i] for i in range(len(done))]
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            every = [replace(r, first=r.first + i, samples=1) for r in requests for i in range(r.samples)]
            if len(every) == 1:
                raise UsageError(
                    f"out of memory while one response is sampled ({len(every[0].prompt_tokens)} tokens of prompt and "
                    f"up to {sampling.max_tokens} more): lower rollout.max_tokens"
                ) from error
        free_cached()  # here, since the error holds the tensors of the work that failed
        self.max_num_seqs = max(1, min(self.max_num_seqs, len(every)) // 2)
        missing = [i for i in range(len(every)) if i not in done]
        places = iter(missing)
        for batch in generation_batches([every[i] for i in missing], self.max_num_seqs):
            rollouts = self._in_memory(batch, sampling, step, on_done)
            done |= zip(islice(places, len(batch)), rollouts, strict=True)
        return [done[i] for i in range(len(every))]

    def _generate(
        self,
        requests: Sequence[Request],
        sampling: SamplingParams,
        step: Step,
        on_done: OnDone | None,
        done: dict[int, Rollout],
    ) -> None:
        """Put the responses of one generation batch into `done`, by their place in it."""
        sampled = Sampled(requests, sampling.max_tokens, self.policy.float64)
        cache = CACHES[self.decoding]()
        logits_PV, start_P = self._prefill(requests, cache)
        padded = bool(start_P.any())
        request_R = torch.from_numpy(sampled.request_R).to(self.policy.device)
        cache.expand(request_R, min(sampling.max_tokens, GROWTH))
        logits_BV = logits_PV[request_R]
        live = LiveSequences(np.arange(len(request_R)), sampled.keys(), start_P[request_R], request_R)
        for position in range(sampling.max_tokens):
            uniform_B = torch.from_numpy(noise.uniforms(live.key, position)).to(self.policy.device)
            live.token, logp_B = sample_token(logits_BV, uniform_B, sampling)
            sampled.append(live.response, position, live.token, logp_B)
            ended_B = self._ended(sampled.tokens_RL, live.response, position, sampling)
            finished_B = ended_B | (position + 1 == sampling.max_tokens)
            for i in np.flatnonzero(finished_B):
                response = int(live.response[i])
                done[response] = sampled.rollout(response, position + 1, truncated=not ended_B[i])
                if on_done:
                    on_done(done[response])
            if finished_B.all():
                break
            if finished_B.any():
                self._evict(live, cache, finished_B)
            logits_BV = self._step(step, live, cache, padded)

    def _prefill(self, requests: Sequence[Request], cache: DecodingCache) -> tuple[Tensor, Tensor]:
        """Logits of the first response token, [P, V], and the positions of left padding of each prompt, [P]."""
        width = max(len(r.prompt_tokens) for r in requests)
        ids = torch.full((len(requests), width), self.policy.pad, dtype=torch.int64)
        for i, request in enumerate(requests):
            ids[i, width - len(request.prompt_tokens) :] = torch.tensor(request.prompt_tokens)
        start_P = torch.tensor([width - len(r.prompt_tokens) for r in requests], device=self.policy.device)
        hidden_PLD = cache.prefill(self.policy, ids.to(self.policy.device), start_P, bool(start_P.any()))
        return self.policy.logits(hidden_PLD[:, -1]), start_P

    def _ended(self, tokens_RL: IntArray, response_B: IntArray, position: int, sampling: SamplingParams) -> BoolArray:
        """Which live sequences end with the token at `position`, bool [B]."""
        ended_B = np.isin(tokens_RL[response_B, position], np.array(sampling.eos, dtype=np.int64))
        if sampling.stop:
            ended_B |= stopped(self.policy.tokenizer, tokens_RL[response_B, : position + 1], sampling.stop)
        return ended_B

    def _step(self, step: Step, live: LiveSequences, cache: DecodingCache, padded: bool) -> Tensor:
        """Feed each live sequence its last token; the logits of the next one, [B, V]."""
        self.steps += 1
        self.slots += cache.sequences
        return self.policy.logits(step(live.token, live.start, padded, cache))[: len(live.response)]

    def _evict(self, live: LiveSequences, cache: DecodingCache, finished_B: BoolArray) -> None:
        """Fill the places of finished sequences with the last live ones, and shrink the batch to the live ones."""
        count, multiple = int((~finished_B).sum()), self.eviction_multiple
        target = np.flatnonzero(finished_B[:count])
        source = count + np.flatnonzero(~finished_B[count:])
        moved = live.compact(source, target, count)
        cache.compact(count if count < multiple else -(-count // multiple) * multiple, *moved)


def supported_ways(policy: Policy) -> Ways:
    """How the policy is computed: what its configuration allows, except what fails in a trial on the policy itself."""
    ways = policy.ways
    if ways.packed and not policy.can_pack:
        ways = replace(ways, packed=False, why=ways.why or "packed tokens gave different hidden states in a trial")
    if ways.decoding == "fused" and not fused_step_agrees(policy):
        adapted = policy.model is not policy.causal
        why = "no fused decode step for adapters" if adapted else "the fused decode step differed in a trial"
        ways = replace(ways, decoding="batched", why=ways.why or why)
    return ways


def generation_batches(
    requests: Sequence[Request], max_num_seqs: int, same_length: bool = False
) -> Iterator[list[Request]]:
    """Requests in order, in batches of at most `max_num_seqs` samples (a request with more is a batch of its own).

    With `same_length`, the prompts of a batch have the same length.

    >>> [[r.prompt_id for r in batch] for batch in generation_batches([Request(i, [7], 3) for i in range(3)], 7)]
    [[0, 1], [2]]
    """
    batch: list[Request] = []
    for request in requests:
        other = same_length and batch and len(batch[0].prompt_tokens) != len(request.prompt_tokens)
        if batch and (other or sum(r.samples for r in batch) + request.samples > max_num_seqs):
            yield batch
            batch = []
        batch.append(request)
    if batch:
        yield batch
