"""The responses of a run's steps as they were logged, in the form that credit is computed from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sieverl.errors import DataError, UsageError
from sieverl.recipe import Recipe
from sieverl.rollout.collect import partial_rewards
from sieverl.run_dir import manifest
from sieverl.run_dir.manifest import load_state
from sieverl.run_dir.rollouts import Kind
from sieverl.run_dir.saved import SavedRun
from sieverl.types import BoolArray, FloatArray, JsonObject, Responses, Rollout
from sieverl.verify import is_graded

OF_CREDIT = ("group", "reward", "correct", "length", "truncated", "kept", "advantage")
OF_TOKENS = ("group", "sample", "prompt_id", "prompt", "truncated", "tokens", "engine_logp")


@dataclass(frozen=True)
class Logged:
    """The responses of a step, and the credit that the run gave them; an advantage that is missing is NaN."""

    step: int
    responses: Responses
    kept_R: BoolArray
    advantage_R: FloatArray


def chosen_steps(run: SavedRun, text: str | None) -> list[int]:
    """The steps that `A:B` (both included, each may be left out) or one number names; all logged ones by default.

    Raises a UsageError for a text of another form, and where no step is left.
    """
    there = run.logged["step"]
    if not there:
        raise DataError(f"{run.path} has no responses of a training step in rollouts/; only these can be replayed")
    if text is None:
        return there
    first, colon, last = text.partition(":")
    if not all(part.isdecimal() or (colon and not part) for part in (first, last if colon else first)):
        raise UsageError(f"the steps are {text!r}; give one, such as 12, or a range, such as 1:20 (both included)")
    low = int(first or 0)
    high = int(last or there[-1]) if colon else low
    found = [step for step in there if low <= step <= high]
    if not found:
        raise UsageError(f"{run.path} has no responses of step {text}; those of {there[0]} to {there[-1]} are there")
    return found


def read_logged(run: SavedRun, recipe: Recipe, step: int) -> Logged | None:
    """A step as it was logged; None where it cannot be read, which `run.problems` explains."""
    table = run.responses(step, OF_CREDIT)
    if table is None or not table.num_rows:
        return None
    columns = {name: table[name].to_numpy() for name in OF_CREDIT}
    responses = Responses(
        prompt_R=columns["group"].astype(np.int64),
        reward_R=columns["reward"].astype(np.float64),
        correct_R=columns["correct"].astype(bool),
        length_R=columns["length"].astype(np.int64),
        truncated_R=columns["truncated"].astype(bool),
        max_tokens=recipe.rollout.max_tokens,
        samples=recipe.rollout.samples,
    )
    kept_R = np.array([bool(kept) for kept in columns["kept"]], dtype=bool)
    return Logged(step, responses, kept_R, columns["advantage"].astype(np.float64))


def read_rollouts(run: SavedRun, step: int, prompts: dict[int, tuple[str, Sequence[int]]]) -> dict[int, Rollout]:
    """The responses of a step with their tokens, by row; `prompts` has text and token ids by the prompt's id.

    Raises a DataError where tokens are missing, or a prompt is another one now.
    """
    table = run.responses(step, OF_TOKENS)
    rows: list[JsonObject] = [] if table is None else table.to_pylist()
    out = {}
    for number, row in enumerate(rows):
        text, ids = prompts.get(row["prompt_id"], ("", ()))
        if text != row["prompt"] or not ids:
            raise DataError(f"prompt {row['prompt_id']} of step {step} is not the one that data.source has now")
        if row["tokens"] is None or row["engine_logp"] is None:
            raise DataError(f"the tokens of step {step} were not logged, by an older version of SieveRL")
        out[number] = Rollout(
            row["prompt_id"], row["sample"], row["tokens"], row["engine_logp"], row["truncated"], row["group"], ids
        )
    return out


def _state(checkpoint: Path) -> JsonObject:
    """The state in a checkpoint, whose other files may be large and are not read; empty where it is damaged."""
    digests, file = manifest.read_manifest(checkpoint), checkpoint / manifest.STATE
    if digests is None or not file.is_file() or manifest.digest(file) != digests[manifest.STATE]:
        return {}
    return load_state(checkpoint)


def graded_in(run: SavedRun, recipe: Recipe, told: bool | None = None) -> bool:
    """Whether rewards meant more than right and wrong in a run: its checkpoint says it, else recipe and verifier.

    Where neither does, the rewards before the first update decide, as they did in the run. Raises a DataError where
    only a function of the user's knows, or these rewards are not there; `told` is then the answer.
    """
    for step in reversed(run.checkpoints):
        found = _state(run.path / "checkpoints" / f"{manifest.PREFIX}{step}").get("graded")
        if isinstance(found, bool):
            return found
    for known in (recipe.verify.graded, is_graded(recipe.verify.spec), told):
        if known is not None:
            return known
    first: list[tuple[int, Kind]] = [(1, "step"), *([(0, "eval")] if recipe.evaluate.source else [])]  # type: ignore[list-item]
    tables = [run.responses(step, ["reward"], kind) for step, kind in first]
    if ":" in recipe.verify.name or any(table is None for table in tables):
        raise DataError(
            f"whether the rewards of {run.path} are graded stands in no checkpoint, and only {recipe.verify.name} "
            "knows it; say it with --graded yes or --graded no"
        )
    return any(len(partial_rewards(table["reward"].to_numpy())) for table in tables if table is not None)
