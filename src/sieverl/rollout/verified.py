"""Sample and verify at once: a response goes to the verifier the moment it ends, while others are still decoded."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from sieverl.engines.protocol import Request, SamplingParams
from sieverl.rollout.environment import Environment
from sieverl.types import Rollout, Row, Status, Verdict

KnownVerdicts = Mapping[tuple[int, int], tuple[str, Verdict]]  # (group, sample) -> (response, verdict)


@dataclass(frozen=True)
class Scored:
    """A response with its text and its verdict."""

    rollout: Rollout
    text: str
    verdict: Verdict


def sample_verified(
    environment: Environment,
    requests: Sequence[Request],
    rows: Mapping[int, Row],
    sampling: SamplingParams,
    known: KnownVerdicts | None = None,
) -> list[Scored]:
    """Responses in the order of the requests. `rows` are the columns of each request's prompt, by `Request.group`.

    A truncated response is not verified: reward 0, not correct. `known` verdicts (of a run that is replayed) are used
    where the response is the same.
    """
    texts: dict[tuple[int, int], str] = {}
    verdicts: dict[Hashable, Verdict] = {}

    def on_done(rollout: Rollout) -> None:
        environment.progress("sampling")
        key = (rollout.group, rollout.sample)
        text = texts[key] = environment.tokenizer.decode(rollout.tokens, skip_special_tokens=True)
        if rollout.truncated:
            verdicts[key] = Verdict(0.0, False, Status.TRUNCATED)
        elif known and key in known and known[key][0] == text:
            verdicts[key] = known[key][1]
        else:
            environment.pool.submit(key, text, rows[rollout.group])

    environment.progress("sampling")
    rollouts = environment.engine.sample(requests, sampling, on_done)
    environment.progress("verifying")
    verdicts |= environment.pool.collect(environment.progress)
    return [Scored(r, texts[r.group, r.sample], verdicts[r.group, r.sample]) for r in rollouts]
