"""An algorithm is tried on a toy batch, axis by axis, before anything is loaded: what is wrong with it costs nothing.

Legend: R rows of the toy batch, T its tokens.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NoReturn, TypeVar

import numpy as np
import torch
from torch import Tensor

from sieverl.algorithms.algorithm import Algorithm
from sieverl.algorithms.tokens import Denominator, Tokens
from sieverl.errors import UsageError
from sieverl.types import AnyArray, FloatArray, IntArray, Responses

PROMPTS, SAMPLES, LONGEST = 8, 4, 6
Result = TypeVar("Result")


def try_out(algorithm: Algorithm, name: str) -> None:
    """Raise a UsageError that names the axis and what is wrong with it, or the user's file and line; else nothing.

    >>> from dataclasses import replace
    >>> from sieverl.algorithms import grpo
    >>> try_out(grpo, "grpo")
    >>> try_out(replace(grpo, select=lambda responses: responses.correct_R[:4]), "mine.py:hard")
    Traceback (most recent call last):
    ...
    sieverl.errors.UsageError: mine.py:hard: select returned shape (4,), expected (32,)
    """
    trial = _Trial(algorithm, name)
    with np.errstate(all="ignore"):
        for graded in (False, True):
            trial.credit(_responses(graded, "greedy" in algorithm.needs))


def _responses(graded: bool, greedy: bool) -> Responses:
    """Prompts of mixed answers, one all right, one all wrong, one all truncated; ragged lengths."""
    g = np.random.default_rng(0)
    rows = PROMPTS * SAMPLES
    right = (np.arange(rows) % SAMPLES < 1 + np.arange(rows) // SAMPLES % 3).reshape(PROMPTS, SAMPLES)
    right[1], right[2], right[3] = True, False, False
    length_R, truncated_R = g.integers(1, LONGEST, rows), np.arange(rows) // SAMPLES == 3
    length_R[truncated_R] = LONGEST
    correct_R = right.ravel()
    partial_R = g.random(rows).round(2) * 0.9 if graded else np.zeros(rows)
    reward_R = np.where(correct_R, 1.0, partial_R)
    prompt_R = np.repeat(np.arange(PROMPTS), SAMPLES)
    of_all = Responses(
        prompt_R, reward_R, correct_R, length_R, truncated_R, max_tokens=LONGEST, graded=graded, samples=SAMPLES
    )
    first_R = prompt_R * SAMPLES
    names = ("reward_R", "correct_R", "length_R", "truncated_R")
    first = replace(of_all, **{name: getattr(of_all, name)[first_R] for name in names})
    return replace(of_all, greedy=first) if greedy else of_all


class _Trial:
    """The axes of one algorithm, called one after the other as a run calls them."""

    def __init__(self, algorithm: Algorithm, name: str) -> None:
        self.algorithm, self.name = algorithm, name

    def call(self, axis: str, function: Callable[..., Result], *args: object) -> Result:
        """What an axis returns; whatever it raises, with the line of the user's file where there is one."""
        try:
            return function(*args)
        except Exception as error:  # whatever the user's function raises, the user is told where
            file = Path(self.name.rpartition(":")[0] or self.name)
            lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).name == file.name]
            where = f"{file}:{lines[-1]}" if lines else f"{self.name}: {axis}"
            hint = "; a function says what it needs with sieverl.algorithms.needs" if "NoneType" in str(error) else ""
            raise UsageError(f"{where}: {type(error).__name__}: {error}{hint}") from error

    def refuse(self, axis: str, what: str) -> NoReturn:
        """Raise what is wrong with an axis."""
        raise UsageError(f"{self.name}: {axis} returned {what}")

    def rows(self, axis: str, value: object, count: int, kind: str = "biuf") -> AnyArray:
        """`value` as an array of `count` numbers (or of true and false)."""
        if not isinstance(value, np.ndarray):
            self.refuse(axis, f"{_kind(value)}, expected a NumPy array of shape ({count},)")
        if value.shape != (count,):
            self.refuse(axis, f"shape {value.shape}, expected ({count},)")
        if value.dtype.kind not in kind:
            self.refuse(axis, f"{value.dtype}, expected {'bool' if kind == 'b' else 'numbers'}")
        out: AnyArray = value
        return out

    def tokens(self, axis: str, value: object, count: int) -> Tensor:
        """`value` as a tensor of `count` finite numbers, one a token or a pair."""
        if not isinstance(value, Tensor):
            self.refuse(axis, f"{_kind(value)}, expected a tensor of shape ({count},)")
        if value.shape != (count,):
            shape = f"shape {tuple(value.shape)}" if value.dim() else "a scalar"
            self.refuse(axis, f"{shape}, expected one number each of {count} tokens or pairs, ({count},)")
        if bad := int((~value.isfinite()).sum()):
            self.refuse(axis, f"NaN or infinity for {bad} of {count} tokens of a toy batch")
        out: Tensor = value
        return out

    def credit(self, responses: Responses) -> None:
        """shape, select, advantage; then the loss of what they keep."""
        algorithm, count = self.algorithm, len(responses)
        shaped_R = self.rows("shape", self.call("shape", algorithm.shape, responses), count)
        if responses.greedy is not None:
            greedy_R = self.rows("shape", self.call("shape", algorithm.shape, responses.greedy), count)
            responses = replace(responses, greedy_R=greedy_R)
        selected_R = self.rows("select", self.call("select", algorithm.select, responses), count, "b")
        if algorithm.sampling.until is not None:
            self.rows("sampling.until", self.call("sampling.until", algorithm.sampling.until, responses), count, "b")
        advantage_R = self.call("advantage", algorithm.advantage, responses, shaped_R)
        advantage_R = self.rows("advantage", advantage_R, count)
        for axis, value_R in (("shape", shaped_R), ("advantage", advantage_R)):
            if bad := int((~np.isfinite(value_R) & selected_R).sum()):
                self.refuse(axis, f"NaN or infinity for {bad} of {count} responses of a toy batch")
        kept = np.flatnonzero(selected_R & (advantage_R != 0))
        if len(kept):
            self.loss(responses, kept, advantage_R)

    def loss(self, responses: Responses, kept: IntArray, advantage_R: FloatArray) -> None:
        """The functions of tokens on what the algorithm says it needs, one by one; then the whole loss."""
        algorithm = self.algorithm
        t, paired = _tokens(algorithm, responses, kept, advantage_R), algorithm.aggregate.unit == "pair"
        size = len(t.logp_T)
        advantage_T = self.tokens("token_advantage", self.call("token_advantage", algorithm.token_advantage, t), size)
        t = replace(t, advantage_T=advantage_T.detach(), logp_T=t.logp_T.requires_grad_())
        ratio_T = self.tokens("ratio", self.call("ratio", algorithm.ratio, t), size)
        found = self.call("objective", algorithm.objective, t, ratio_T)
        loss_T = self.tokens("objective", found, len(np.unique(responses.prompt_R[kept])) if paired else size)
        free = not loss_T.requires_grad
        if free or torch.autograd.grad(loss_T.sum(), t.logp_T, retain_graph=True, allow_unused=True)[0] is None:
            self.refuse("objective", "a loss without a gradient to logp_T: nothing would be learnt")
        for penalty in algorithm.penalties:
            self.tokens("a penalty", self.call("a penalty", penalty.function, t), size)
        total, count = self.call("aggregate", algorithm.loss, t)
        if not isinstance(total, Tensor) or total.dim() or not total.isfinite() or not count > 0:
            self.refuse("aggregate", f"{_kind(total)} over {count}, expected a finite scalar over a positive number")


def _tokens(algorithm: Algorithm, responses: Responses, kept: IntArray, advantage_R: FloatArray) -> Tokens:
    needs, length_S = algorithm.needs, torch.as_tensor(responses.length_R[kept])
    lengths = responses.length_R.tolist()
    response_T = torch.repeat_interleave(torch.arange(len(kept)), length_S)
    g = torch.Generator().manual_seed(0)

    def noise(scale: float) -> Tensor:
        return scale * torch.rand(len(response_T), generator=g)

    logp_T = -noise(3.0)
    advantage_S = torch.as_tensor(advantage_R[kept].astype(np.float32))
    return Tokens(
        logp_T,
        response_T,
        advantage_S[response_T],
        old_T=logp_T + noise(0.2) - 0.1 if needs & {"ratio", "old"} else None,
        ref_T=logp_T + noise(0.2) - 0.1 if "ref" in needs else None,
        value_T=noise(1.0) if "value" in needs else None,
        entropy_T=noise(2.0).requires_grad_() if "entropy" in needs else None,
        pair_S=torch.as_tensor(responses.prompt_R[kept]) if algorithm.aggregate.unit == "pair" else None,
        denominator=Denominator(lengths, lengths, len(set(responses.prompt_R[kept].tolist())), LONGEST),
    )


def _kind(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
