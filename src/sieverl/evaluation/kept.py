"""An evaluation that outlives its process: every generation batch is kept as soon as its responses are verified.

A batch is the unit because its shape decides how float32 sums round: one that is sampled again gives the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from sieverl.engines.protocol import OnDone, Request, SamplingParams
from sieverl.evaluation.measure import Watched, requests_of
from sieverl.evaluation.subject import Subject
from sieverl.rollout.environment import Environment, PromptSet
from sieverl.rollout.verified import KnownVerdicts, Scored, sample_verified
from sieverl.run_dir.parts import Parts, digest_of
from sieverl.run_dir.versions import versions
from sieverl.types import JsonObject, Rollout, Row, VerifierSpec
from sieverl.verify import kept as verdicts
from sieverl.verify.kept import fingerprint


class Part(NamedTuple):
    """The responses of a batch, those of their verdicts that still hold, and the part as it is in the file."""

    rollouts: list[Rollout]
    known: KnownVerdicts
    saved: JsonObject


@dataclass
class Replayed:
    """An engine whose responses were sampled before. It does not know their log-probs."""

    rollouts: Sequence[Rollout]
    version: int = 0

    def sample(
        self, requests: Sequence[Request], sampling: SamplingParams, on_done: OnDone | None = None
    ) -> list[Rollout]:
        """The responses, which must be those to the requests."""
        for rollout in self.rollouts if on_done else ():
            assert on_done
            on_done(rollout)
        return list(self.rollouts)

    def load(self, weights: Mapping[str, Tensor], version: int) -> None:
        """It has no weights."""


@dataclass(frozen=True)
class KeptSampling:
    """Samples and verifies like `sample_verified`, and keeps each generation batch in `parts`.

    `batches` are the places of the prompts of each batch; `tick` is called for every response.
    """

    parts: Parts
    batches: Sequence[Sequence[int]]
    spec: VerifierSpec
    tick: Callable[[], None] = lambda: None

    def beside(self, output: Path) -> KeptSampling:
        """The same, kept beside another result file."""
        return replace(self, parts=Parts.of(output, self.parts.keys, self.parts.say))

    def begun(self, output: Path) -> bool:
        """Whether some of it is kept beside that result file."""
        return bool(self.beside(output).parts.kept())

    def __call__(
        self, environment: Environment, requests: Sequence[Request], rows: Mapping[int, Row], sampling: SamplingParams
    ) -> list[Scored]:
        """The responses to all requests, in order."""
        found: dict[int, list[Scored]] = {}
        for number, places in enumerate(self.batches):
            batch = [requests[i] for i in places]
            judged = digest_of(fingerprint(self.spec), versions(), [rows[request.group] for request in batch])
            scored = iter(self._batch(environment, number, batch, rows, sampling, judged))
            found |= {i: list(islice(scored, requests[i].samples)) for i in places}
        return [scored for i in range(len(requests)) for scored in found[i]]

    def _batch(
        self,
        environment: Environment,
        number: int,
        batch: Sequence[Request],
        rows: Mapping[int, Row],
        sampling: SamplingParams,
        judged: str,
    ) -> list[Scored]:
        part = self.parts.read(number, lambda saved: parse(saved, batch, judged))
        engine = Watched(Replayed(part.rollouts) if part else environment.engine, self.tick)
        known = part.known if part else None
        scored = sample_verified(replace(environment, engine=engine), batch, rows, sampling, known)
        value = {"judged": judged, "responses": [to_json(one) for one in scored]}
        if part is None or part.saved != value:
            self.parts.write(number, value)
        return scored


def kept_sampling(
    subject: Subject, prompts: PromptSet, samples: int, spec: VerifierSpec, output: Path, say: Callable[[str], None]
) -> KeptSampling:
    """The kept sampling of one benchmark, whose result is written to `output`."""
    requests = requests_of(prompts, samples, range(len(prompts.prompts)))
    batches = subject.engine.batches(requests)
    decides = digest_of(subject.decides(), asdict(prompts.sampling), versions())
    keys = [digest_of(decides, [asdict(requests[i]) for i in places]) for places in batches]
    return KeptSampling(Parts.of(output, keys, say), batches, spec)


def to_json(scored: Scored) -> JsonObject:
    """A response and its verdict as JSON. Its log-probs are left out: no number of a result depends on them."""
    rollout = scored.rollout
    return {
        "prompt": rollout.prompt_id,
        "sample": rollout.sample,
        "tokens": rollout.tokens,
        "truncated": rollout.truncated,
        "text": scored.text,
        "verdict": verdicts.to_json(scored.verdict),
    }


def _is_id(token: object) -> bool:
    return type(token) is int and 0 <= token < 2**31


def parse(saved: JsonObject, batch: Sequence[Request], judged: str) -> Part:
    """A part of these requests. Its verdicts hold if the verifier and the rows are those of the digest `judged`.

    Raises ValueError for the responses of other requests, and what a file of another form raises.
    """
    rollouts, known = [], {}
    asked = [(request, request.first + i) for request in batch for i in range(request.samples)]
    for (request, sample), one in zip(asked, saved["responses"], strict=True):
        if (one["prompt"], one["sample"]) != (request.prompt_id, sample):
            raise ValueError("it has responses to other prompts")
        tokens, truncated, text = one["tokens"], one["truncated"], one["text"]
        if not isinstance(truncated, bool) or not isinstance(text, str) or not all(map(_is_id, tokens)):
            raise TypeError("a response is not text and token ids")
        rollouts.append(Rollout(request.prompt_id, sample, tokens, [], truncated, request.group, request.prompt_tokens))
        verdict = verdicts.from_json(one["verdict"])
        if verdict is not None and saved["judged"] == judged:
            known[request.group, sample] = (text, verdict)
    return Part(rollouts, known, saved)
