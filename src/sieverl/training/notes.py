"""What puzzles people, in words: what rewards mean, a step with nothing kept, failing verification, a loss of zero."""

from __future__ import annotations

from sieverl.training.inspection import inspection_file
from sieverl.training.state import Run
from sieverl.types import Metrics, Note

NONFINITE = {
    "advantages": "advantages of tokens",
    "log_probs": "log-probs of tokens",
    "losses": "losses of micro-batches",
    "gradients": "gradients, each an update that was not made",
}
EARLY = 20  # steps; the file of metrics is not read again for every later one


def notes(run: Run, row: Metrics) -> list[Note]:
    """What is worth saying of a step that was recorded; usually nothing."""
    found = [
        _grades(run),
        _threshold(run),
        _nothing_kept(row),
        _nonfinite(run),
        _halved(run, row),
        _zero_loss(run, row),
    ]
    return [*(Note(line) for line in found if line), *_verifier(run, row)]


def _grades(run: Run) -> str:
    """How the rewards of a function that does not say so are taken, after the first step."""
    if run.state.step > 1 or run.declared_graded is not None:
        return ""
    if run.state.graded:
        return "rewards are taken as they are, since not all are 0, 1 or -1; verify.graded = true says so"
    return "rewards are taken as right or wrong, since all so far are 0, 1 or -1; verify.graded = false says so"


def _threshold(run: Run) -> str:
    """That no response counts as correct, after three steps in which rewards differ."""
    verify = run.recipe.verify
    if run.state.step != 3 or not (":" in verify.name or verify.name == "reasoning_gym"):
        return ""
    rows = [row for row in run.metrics.rows() if 1 <= row["step"] <= 3]
    highest = max(row.get("reward/max", 0.0) for row in rows)
    if any(row["reward/accuracy"] for row in rows) or not any(row.get("reward/std") for row in rows):
        return ""
    return (
        f"no reward reached verify.correct_from = {verify.correct_from:g} so far (highest {highest:g}): accuracy "
        "counts none as correct, and algorithms that select the correct ones keep nothing; set it lower if it is "
        "out of reach"
    )


def _nothing_kept(row: Metrics) -> str:
    if row["select/kept_fraction"]:
        return ""
    return (
        f"nothing kept: {row['select/all_wrong']:.0%} of prompts all wrong, {row['select/all_correct']:.0%} all "
        "correct; no update was made"
    )


def _nonfinite(run: Run) -> str:
    counted = ", ".join(f"{count} {NONFINITE[name]}" for name, count in run.nonfinite.items())
    file = inspection_file(run, run.state.step)
    where = f"; the batch is in {file.relative_to(run.run_dir)}" if file.exists() else ""
    return f"NaN or infinity: {counted}{where}" if counted else ""


def _halved(run: Run, row: Metrics) -> str:
    smaller = []
    if row["memory/halved"]:
        smaller.append(f"train.micro_batch_tokens = {run.recipe.train.micro_batch_tokens}")
    if row["memory/engine_halved"]:
        smaller.append(f"rollout.max_num_seqs = {run.recipe.rollout.max_num_seqs}")
    return f"out of memory: from now on {', '.join(smaller)}" if smaller else ""


def _verifier(run: Run, row: Metrics) -> list[Note]:
    """Timeouts and errors, with the most common reason the first time that it comes."""
    timeouts, errors = int(row["verify/timeouts"]), int(row["verify/errors"])
    if not timeouts and not errors:
        return []
    new, why = bool(set(run.reasons) - set(run.earlier_reasons)), ""
    if run.reasons:
        reason, count = run.reasons.most_common(1)[0]
        total = (run.reasons + run.earlier_reasons).total()
        why = f": {count} x {reason}" if new else f" ({total} so far, for no new reason)"
    return [Note(f"verifier: {timeouts} timeouts, {errors} errors{why}", new)]


def _zero_loss(run: Run, row: Metrics) -> str:
    """That a loss of 0 is no fault, where that of the first three steps with an update was; one later is chance."""
    if run.state.step > EARLY or not row.get("train/updates"):
        return ""
    updated = [r for r in run.metrics.rows() if r.get("train/updates") and r["train/loss"] is not None]
    if len(updated) != 3 or updated[-1]["step"] != row["step"] or any(abs(r["train/loss"]) >= 1e-6 for r in updated):
        return ""
    return "the loss reads 0 on-policy because advantages are centred; the gradient does not"
