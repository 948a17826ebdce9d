"""The built-in engine: any Hugging Face causal LM, on the learner's own weights (no copy, no sync on one device).

Samples of a prompt share one prefill, finished responses leave the batch at once, and noise is a pure function of
(seed, prompt, sample, position). Legend: B live rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sieverl.engines import noise
from sieverl.engines.decode_step import Step, fused, fuses, library, plain, recompute
from sieverl.engines.kv_cache import GROWTH, LibraryCache, NoCache, RowCache
from sieverl.engines.protocol import OnDone, Request, SamplingParams
from sieverl.engines.sampling import draw
from sieverl.engines.stop_strings import stopped
from sieverl.model.families import Ways
from sieverl.model.policy import Policy
from sieverl.types import Array, Rollout

COMPILED = 8  # bfloat16 on a CPU: a kernel is compiled for each number of rows, so rows leave the memory by so many
# the step of each way of decoding, and the memory that it works on
WAYS: dict[str, tuple[Callable[[Policy], Step | None], Callable[[], Any]]] = {
    "fused": (fused, RowCache),
    "rows": (plain, RowCache),
    "library": (library, LibraryCache),
    "recompute": (recompute, NoCache),
}


@dataclass
class Rows:
    """The live rows of a wave: which response each is, its noise key, where its prompt starts, its last token."""

    response: Array
    key: Array
    start: Tensor
    token: Tensor


class BuiltinEngine:
    """Samples from `policy.model`. `max_num_seqs` responses are decoded at a time (memory grows with it)."""

    stop_strings = True

    @staticmethod
    def on_policy(dtype: str) -> bool:
        """In bfloat16 sampling and learning round otherwise."""
        return dtype != "bfloat16"

    def __init__(self, policy: Policy, max_num_seqs: int = 512) -> None:
        self.policy = policy
        self.max_num_seqs = max_num_seqs
        self.version = 0
        self.ways = supported_ways(policy)
        self.decoding = self.ways.decoding
        compiled = policy.compute == torch.bfloat16 and policy.device.type == "cpu"
        self.multiple = COMPILED if self.decoding == "fused" and compiled else 1
        self.steps = 0  # decoding forwards so far
        self.slots = 0  # rows through them: tokens sampled and, where `multiple` is not 1, a few finished rows

    def load(self, weights: Mapping[str, Tensor], version: int) -> None:
        """The weights are the learner's own: only the version is taken."""
        self.version = version

    def sample(
        self, requests: Sequence[Request], sampling: SamplingParams, on_done: OnDone | None = None
    ) -> list[Rollout]:
        """One `Rollout` for each sample of each request, in order."""
        make, memory = WAYS[self.decoding]
        alike = self.decoding in ("library", "recompute")  # which know no padding: prompts of one length together
        order = sorted(range(len(requests)), key=lambda i: len(requests[i].prompt_tokens) if alike else 0)
        groups: dict[int, list[Rollout]] = {}
        model = self.policy.model
        training = model.training
        model.eval()
        try:
            with torch.no_grad(), self.policy.computing():
                step = make(self.policy) or plain(self.policy)
                for wave in generation_batches([requests[i] for i in order], self.max_num_seqs, alike):
                    rollouts = iter(self._decode(wave, sampling, step, memory(), on_done))
                    for request in wave:
                        groups[order[len(groups)]] = list(islice(rollouts, request.samples))
        finally:
            model.train(training)
        return [rollout for i in range(len(requests)) for rollout in groups[i]]

    def _decode(
        self, requests: Sequence[Request], sampling: SamplingParams, step: Step, cache: Any, on_done: OnDone | None
    ) -> list[Rollout]:
        device = self.policy.device
        owner = np.repeat(np.arange(len(requests)), [r.samples for r in requests])
        sample = np.concatenate([np.arange(r.first, r.first + r.samples) for r in requests])
        prompt = np.array([r.prompt_id for r in requests], dtype=np.int64)[owner]
        group = np.array([r.group for r in requests], dtype=np.int64)[owner]
        seed = np.array([r.seed for r in requests], dtype=np.int64)[owner]
        tokens = np.zeros((len(owner), min(sampling.max_tokens, GROWTH)), dtype=np.int64)
        logps = np.zeros(tokens.shape, dtype=np.float64 if self.policy.float64 else np.float32)
        eos = np.array(sampling.eos, dtype=np.int64)

        logits_PV, start_P = self._prefill(requests, cache)
        spread = torch.from_numpy(owner).to(device)
        cache.spread(spread, min(sampling.max_tokens, GROWTH))
        rows = Rows(np.arange(len(owner)), noise.keys(seed, prompt, sample), start_P[spread], spread)
        logits_BV, padded = logits_PV[spread], bool(start_P.any())
        done: dict[int, Rollout] = {}
        for position in range(sampling.max_tokens):
            uniform_B = torch.from_numpy(noise.uniforms(rows.key, position)).to(device)
            rows.token, logp_B = draw(logits_BV, uniform_B, sampling)
            token_B = rows.token.cpu().numpy()
            if position == tokens.shape[1]:
                tokens, logps = (np.concatenate([x, np.zeros_like(x)], axis=1) for x in (tokens, logps))
            tokens[rows.response, position] = token_B
            logps[rows.response, position] = logp_B.cpu().numpy()
            ended_B = np.isin(token_B, eos)
            if sampling.stop:
                ended_B |= stopped(self.policy.tokenizer, tokens[rows.response, : position + 1], sampling.stop)
            leaving_B = ended_B | (position + 1 == sampling.max_tokens)
            for row in np.flatnonzero(leaving_B):
                i = int(rows.response[row])
                drawn = tokens[i, : position + 1].tolist(), logps[i, : position + 1].tolist()
                done[i] = Rollout(
                    int(prompt[i]),
                    int(sample[i]),
                    *drawn,
                    not ended_B[row],
                    int(group[i]),
                    requests[owner[i]].prompt_tokens,
                )
                if on_done:
                    on_done(done[i])
            if leaving_B.all():
                break
            if leaving_B.any():
                self._leave(rows, cache, leaving_B)
            logits_BV = self._step(step, rows, cache, padded)
        return [done[i] for i in range(len(owner))]

    def _prefill(self, requests: Sequence[Request], cache: Any) -> tuple[Tensor, Tensor]:
        """Logits of the first response token, [P, V], and how many columns of left padding each prompt has, [P]."""
        device = self.policy.device
        width = max(len(r.prompt_tokens) for r in requests)
        ids = torch.full((len(requests), width), self.policy.pad, dtype=torch.int64)
        for i, request in enumerate(requests):
            ids[i, width - len(request.prompt_tokens) :] = torch.tensor(request.prompt_tokens)
        start_P = torch.tensor([width - len(r.prompt_tokens) for r in requests], device=device)
        columns = torch.arange(width, device=device)
        mask = (columns >= start_P[:, None]).long() if bool(start_P.any()) else None
        ids = ids.to(device)
        if isinstance(cache, RowCache):
            hidden = self.policy.hidden(ids, (columns - start_P[:, None]).clamp(min=0), mask, cache)
        else:
            hidden = cache.prefill(self.policy, ids)
        return self.policy.logits(hidden[:, -1]), start_P

    def _step(self, step: Step, rows: Rows, cache: Any, padded: bool) -> Tensor:
        """Feed each live row its last token; the logits of the next, [B, V]."""
        self.steps += 1
        self.slots += cache.rows
        return self.policy.logits(step(rows.token, rows.start, padded, cache))[: len(rows.response)]

    def _leave(self, rows: Rows, cache: Any, leaving_B: Array) -> None:
        """Fill the places of finished rows with the last live ones, and shrink the batch to the live rows."""
        live = int((~leaving_B).sum())
        target = np.flatnonzero(leaving_B[:live])
        source = live + np.flatnonzero(~leaving_B[live:])
        to, of = (torch.from_numpy(x).to(rows.start.device) for x in (target, source))
        cache.keep(live if live < self.multiple else -(-live // self.multiple) * self.multiple, of, to)
        for name in ("response", "key"):
            value = getattr(rows, name)
            value[target] = value[source]
            setattr(rows, name, value[:live])
        for name in ("start", "token"):
            value = getattr(rows, name)
            value[to] = value[of]
            setattr(rows, name, value[:live])


def supported_ways(policy: Policy) -> Ways:
    """How the policy is computed: what its configuration allows, less what a trial on it shows to be wrong."""
    ways = policy.ways
    if ways.packed and not policy.can_pack:
        ways = replace(ways, packed=False, why=ways.why or "packed tokens gave other hidden states in a trial")
    if ways.decoding == "fused" and not fuses(policy):
        adapted = policy.model is not policy.causal
        why = "no step is written out for adapters" if adapted else "the written-out step differed in a trial"
        ways = replace(ways, decoding="rows", why=ways.why or why)
    return ways


def generation_batches(requests: Sequence[Request], max_num_seqs: int, alike: bool = False) -> Iterator[list[Request]]:
    """Requests in order, as many at a time as have at most `max_num_seqs` samples (a larger one goes alone).

    `alike` ones have prompts of one length.
    """
    wave: list[Request] = []
    for request in requests:
        other = alike and wave and len(wave[0].prompt_tokens) != len(request.prompt_tokens)
        if wave and (other or sum(r.samples for r in wave) + request.samples > max_num_seqs):
            yield wave
            wave = []
        wave.append(request)
    if wave:
        yield wave
