"""From samples and their log-probs to the `Tokens` that an algorithm's loss is computed from.

Legend: T response tokens, S samples.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sieverl.algorithms.shapes import FloatT
from sieverl.algorithms.tokens import Denominator, Tokens
from sieverl.learner.batches import Sample

TIS_CAP = 2.0  # C of min(pi_old / pi_engine, C): truncated importance sampling


def as_tokens(
    samples: Sequence[Sample],
    logp_T: FloatT,
    entropy_T: FloatT | None = None,
    denominator: Denominator | None = None,
    importance_sampling: bool = False,
) -> Tokens:
    """The tokens of a micro-batch. `importance_sampling` weights each by min(pi_old / pi_engine, TIS_CAP)."""
    device = logp_T.device
    sizes = torch.tensor([len(s.response_tokens) for s in samples], device=device)
    response_T = torch.repeat_interleave(torch.arange(len(samples), device=device), sizes)
    advantage_T = joined(samples, "token_advantage", logp_T)
    if advantage_T is None:
        advantage_T = logp_T.detach().new_tensor([s.advantage for s in samples])[response_T]
    old_T = joined(samples, "old_logp", logp_T)
    weight_T = None
    if importance_sampling:
        engine_T = logp_T.new_tensor([x for s in samples for x in s.engine_logp])
        scored_T = logp_T.detach() if old_T is None else old_T  # with one update a step, pi_old is this policy
        weight_T = (scored_T - engine_T).exp().clamp(max=TIS_CAP)
    kept_T = None
    if not all(s.kept for s in samples):
        kept_T = logp_T.detach().new_tensor([float(s.kept) for s in samples])[response_T]
    pair_S = None
    if samples and samples[0].pair >= 0:
        pair_S = torch.tensor([s.pair for s in samples], device=device)
    return Tokens(
        logp_T,
        response_T,
        advantage_T,
        old_T=old_T,
        ref_T=joined(samples, "ref_logp", logp_T),
        value_T=joined(samples, "value", logp_T),
        entropy_T=entropy_T,
        weight_T=weight_T,
        kept_T=kept_T,
        pair_S=pair_S,
        denominator=denominator,
    )


def joined(samples: Sequence[Sample], name: str, like_T: FloatT) -> FloatT | None:
    """The field `name` of all samples, [T], with zeros for samples that lack it; None if all lack it.

    Samples that are there only for a penalty lack old log-probs and values. `like_T` gives dtype and device.
    """
    parts: list[Tensor | None] = [getattr(s, name) for s in samples]
    if all(part is None for part in parts):
        return None
    blank = like_T.new_zeros(max(len(s.response_tokens) for s in samples)).detach()
    return torch.cat([blank[: len(s.response_tokens)] if x is None else x for s, x in zip(samples, parts, strict=True)])
