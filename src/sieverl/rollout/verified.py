"""Sample and verify at once: a response goes to the verifier the moment it ends, while others are still decoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sieverl.rollout.protocol import Engine, Request, Sampling
from sieverl.types import Rollout, Row, Status, Verdict
from sieverl.verify import Pool

Known = Mapping[tuple[int, int], tuple[str, Verdict]]


@dataclass(frozen=True)
class Scored:
    """A response with its text and its verdict."""

    rollout: Rollout
    text: str
    verdict: Verdict


def sample_verified(
    engine: Engine,
    tokenizer: Any,
    pool: Pool,
    requests: Sequence[Request],
    rows: Mapping[int, Row],
    sampling: Sampling,
    known: Known | None = None,
) -> list[Scored]:
    """Responses in the order of the requests. `rows` are the columns of each request's prompt, by `Request.group`.

    A truncated response is not verified: reward 0, not correct. `known` verdicts (of a run that is replayed) are taken
    where the response is the same.
    """
    texts: dict[tuple[int, int], str] = {}
    verdicts: dict[tuple[int, int], Verdict] = {}

    def on_done(rollout: Rollout) -> None:
        key = (rollout.group, rollout.sample)
        text = texts[key] = tokenizer.decode(rollout.tokens, skip_special_tokens=True)
        if rollout.truncated:
            verdicts[key] = Verdict(0.0, False, Status.TRUNCATED)
        elif known and key in known and known[key][0] == text:
            verdicts[key] = known[key][1]
        else:
            pool.submit(key, text, rows[rollout.group])

    rollouts = engine.sample(requests, sampling, on_done)
    collected: dict[Any, Verdict] = pool.collect()
    verdicts |= collected
    return [Scored(r, texts[r.group, r.sample], verdicts[r.group, r.sample]) for r in rollouts]
