"""The story: sample, verify, credit, cut and pack, score, update, load; log, evaluate, checkpoint."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from sieverl import checkpoint
from sieverl.algorithm import Algorithm
from sieverl.benchmark import measure, reader, summarise
from sieverl.data import Cursor
from sieverl.errors import Alarm
from sieverl.evaluate import exact_kl
from sieverl.gather import Batch, Source, counts, gather
from sieverl.learner import Learner
from sieverl.metrics import MetricsLog, nonfinite, read_verdicts, write_rollouts
from sieverl.model import Policy
from sieverl.packing import Sample, pack
from sieverl.recipe import Recipe
from sieverl.rollout.protocol import Engine
from sieverl.rollout.verified import Scored
from sieverl.types import Array, Credit

Row = dict[str, Any]


@dataclass
class State:
    """What a run is between two steps, beside weights and optimiser state: all of it is in a checkpoint."""

    step: int = 0
    cursor: Cursor = field(default_factory=Cursor)
    empty_steps: int = 0
    graded: bool | None = None  # whether rewards mean more than right and wrong; None before the first step
    nonfinite_steps: int = 0

    @staticmethod
    def of(saved: dict[str, Any]) -> State:
        cursor = Cursor(**saved["cursor"])
        return State(saved["step"], cursor, saved["empty_steps"], saved["graded"], saved.get("nonfinite_steps", 0))


@dataclass
class Run:
    """What a run works with; `setup.prepare` puts it together from a recipe."""

    recipe: Recipe
    run_dir: Path
    algorithm: Algorithm
    policy: Policy
    learner: Learner
    engine: Engine
    train: Source
    heldout: Source | None
    reference: Callable[[], Policy]
    state: State = field(default_factory=State)
    verifier_graded: bool | None = False
    reasons: Counter[str] = field(default_factory=Counter)  # of the verifier's errors in the last step

    @property
    def metrics(self) -> MetricsLog:
        return MetricsLog(self.run_dir / "metrics.jsonl")


class Stopped(Exception):
    """A signal asked the run to stop; the last step was finished and saved."""

    def __init__(self, number: int) -> None:
        self.number = number


def train(run: Run, on_row: Callable[[Row], None] = lambda row: None) -> None:
    """Train until `recipe.steps`, from wherever `run.state` stands. `on_row` sees every row of metrics."""
    recipe, state = run.recipe, run.state
    if state.step == 0:
        record(run, {"step": 0, **evaluate(run)}, on_row)
    with stop_requests() as requested:
        while state.step < recipe.steps:
            started = time.perf_counter()
            batch = collect(run)
            sampled = time.perf_counter()
            credit = assign(run, batch)
            batches = pack(batch.responses, credit, batch.mine, run.algorithm, recipe.train.minibatches)
            scores = run.learner.score(batches, probe=list(batch.mine.values())[: recipe.rollout.samples])
            metrics = run.learner.update(batches) | scores
            state.step += 1
            state.cursor = batch.cursor
            run.engine.load(run.policy.model, version=state.step)
            ended = time.perf_counter()
            row = {"step": state.step, **describe(run, batch, credit), **metrics}
            tokens = int(batch.responses.length_R.sum())
            row |= {"rollout/tokens_per_second": tokens / (sampled - started), "time/rollout": sampled - started}
            row |= {"time/update": ended - sampled, "time/step": ended - started}
            log_rollouts(run, batch, credit)
            last = state.step == recipe.steps
            if last or (recipe.evaluate.every and state.step % recipe.evaluate.every == 0):
                row |= evaluate(run)
            record(run, row, on_row)
            due = recipe.checkpoint.every and state.step % recipe.checkpoint.every == 0
            stop = run.train.world.sum_floats([len(requested)])[0] > 0
            if last or due or stop:
                save(run)
            check_alarms(run, row)
            if stop and not last:
                raise Stopped(requested[0] if requested else signal.SIGTERM)


def collect(run: Run) -> Batch:
    """The responses of the next step."""
    recipe, state = run.recipe, run.state

    def graded(reward_R: Array) -> bool:
        if run.verifier_graded is not None:
            state.graded = run.verifier_graded
        elif state.step == 0:
            state.graded = bool(state.graded) or len(partial(reward_R)) > 0
        elif not state.graded and len(partial(reward_R)):
            raise Alarm(
                f"step {state.step + 1}: a response got the reward {partial(reward_R)[0]:g}, but all rewards before "
                "the first update were 0, 1 or -1, so that they are taken as right or wrong, which does not change in "
                "a run; set verify.graded = true and start anew (--resume never), or verify.graded = false and go on"
            )
        return bool(state.graded)

    known = read_verdicts(run.run_dir, state.step + 1)
    size = recipe.rollout
    batch = gather(run.train, run.algorithm, state.cursor, size.prompts, size.samples, graded, known)
    run.reasons = batch.reasons
    return batch


def partial(reward_R: Array) -> Array:
    """The rewards that are neither 0, 1 nor -1, and so mean more than right and wrong."""
    return reward_R[~np.isin(reward_R, (-1.0, 0.0, 1.0))]


def assign(run: Run, batch: Batch) -> Credit:
    """Keep and advantage of every response of all ranks, the same on each rank."""
    responses = replace(batch.responses, seed=run.recipe.seed * 1_000_003 + run.state.step)
    credit = run.algorithm.credit(responses)
    if run.recipe.train.mask_truncated:
        whole_R = ~responses.truncated_R
        credit = replace(credit, keep=credit.keep & whole_R, selected=credit.selected & whole_R)
    return credit


def describe(run: Run, batch: Batch, credit: Credit) -> Row:
    """The metrics of a batch of responses, kept or not."""
    responses = batch.responses
    groups, index = np.unique(responses.prompt_R, return_inverse=True)
    share = np.bincount(index, responses.correct_R) / np.bincount(index)
    status = counts(batch.status_R)
    total = len(responses)
    return {
        "reward/mean": float(responses.reward_R.mean()),
        "reward/std": float(responses.reward_R.std()),
        "reward/max": float(responses.reward_R.max()),
        "reward/accuracy": float(responses.correct_R.mean()),
        **part_means(batch.parts_R),
        "select/kept_fraction": float(credit.keep.mean()),
        "select/all_wrong": float((share == 0).mean()),
        "select/all_correct": float((share == 1).mean()),
        "select/prompts": float(len(groups)),
        "select/rounds": float(batch.rounds),
        "select/empty_steps": float(0 if credit.keep.any() else run.state.empty_steps + 1),
        "policy/entropy": batch.entropy[0] / max(1.0, batch.entropy[1]),
        "rollout/length_mean": float(responses.length_R.mean()),
        "rollout/length_max": float(responses.length_R.max()),
        "rollout/truncated": float(responses.truncated_R.mean()),
        "rollout/tokens": float(responses.length_R.sum()),
        "verify/no_answer": status["no_answer"] / total,
        "verify/timeouts": float(status["verifier_timeout"]),
        "verify/errors": float(status["verifier_error"]),
    }


def part_means(parts_R: Sequence[Mapping[str, float | None]]) -> Row:
    """`reward/<name>/mean` of each part of the rewards, over the responses to which it applied.

    >>> part_means([{"math": 1.0, "brief": None}, {"math": 0.0, "brief": 0.5}, {}])
    {'reward/brief/mean': 0.5, 'reward/math/mean': 0.5}
    """
    out: Row = {}
    for name in sorted({name for parts in parts_R for name in parts}):
        values = [value for parts in parts_R if (value := parts.get(name)) is not None]
        if values:
            out[f"reward/{name}/mean"] = float(np.mean(values))
    return out


def evaluate(run: Run) -> Row:
    """avg@k, pass@k and maj@k on the held-out prompts with their intervals, and the KL to the start model there."""
    source, settings = run.heldout, run.recipe.evaluate
    if source is None:
        return {}
    started = time.perf_counter()
    name, k = settings.name, settings.samples
    records, scored = measure(source, k, reader(run.recipe.verify.spec))
    log_evaluation(run, source, scored)
    if run.verifier_graded is None and run.state.step == 0:
        odd = partial(np.array([s.verdict.reward for s in scored], dtype=np.float64))
        run.state.graded = source.world.sum_floats([len(odd)])[0] > 0
    found = summarise(records)
    out: Row = {}
    for score in (f"avg@{k}", f"pass@{k}", f"maj@{k}"):
        out[f"eval/{name}/{score}"], low, high = found.scores[score]
        out |= {f"eval_ci/{name}/{score}/low": low, f"eval_ci/{name}/{score}/high": high}
    out |= {f"eval/{name}/{share}": found.shares[share] for share in ("length_mean", "truncated", "no_answer")}
    if settings.kl_prompts:
        out[f"eval/{name}/kl_ref"] = start_kl(run, source, scored) if run.state.step else 0.0
    out["time/evaluate"] = time.perf_counter() - started
    return out


def log_evaluation(run: Run, source: Source, scored: list[Scored]) -> None:
    """Every held-out response into its Parquet file, by rank 0."""
    own = [
        {
            "step": run.state.step,
            "prompt_id": s.rollout.prompt,
            "sample": s.rollout.sample,
            "prompt": source.prompts[s.rollout.group].text,
            "answer": str(source.prompts[s.rollout.group].row.get("answer", "")),
            "response": s.text,
            "reward": s.verdict.reward,
            "correct": s.verdict.correct,
            "status": s.verdict.status.value,
            "length": len(s.rollout.tokens),
        }
        for s in scored
    ]
    rows = [row for part in source.world.gather(own) for row in part]
    if source.world.rank == 0:
        write_rollouts(run.run_dir, run.state.step, sorted(rows, key=lambda r: (r["prompt_id"], r["sample"])), "eval")


def start_kl(run: Run, source: Source, scored: list[Scored]) -> float:
    """KL to the start model over all responses to the first `kl_prompts` held-out prompts."""
    chosen = [s.rollout for s in scored if s.rollout.group < run.recipe.evaluate.kl_prompts]
    samples = [Sample(source.tokens[r.group], r.tokens, r.logp, 0.0) for r in chosen]
    return exact_kl(run.policy, run.reference(), samples, run.recipe.train.micro_batch_tokens, source.world)


def log_rollouts(run: Run, batch: Batch, credit: Credit) -> None:
    """Every response of the step into its Parquet file, by rank 0."""
    responses, own = batch.responses, []
    names = sorted({name for parts in batch.parts_R for name in parts})
    for row, scored in batch.scored.items():
        prompt = run.train.prompts[batch.drawn[int(responses.prompt_R[row])]]
        own.append(
            {
                "step": run.state.step,
                "group": int(responses.prompt_R[row]),
                "sample": scored.rollout.sample,
                "prompt_id": prompt.id,
                "prompt": prompt.text,
                "answer": str(prompt.row.get("answer", "")),
                "response": scored.text,
                "reward": float(responses.reward_R[row]),
                **{f"reward/{name}": scored.verdict.parts.get(name) for name in names},
                "correct": bool(responses.correct_R[row]),
                "status": batch.status_R[row],
                "length": int(responses.length_R[row]),
                "truncated": bool(responses.truncated_R[row]),
                "kept": bool(credit.keep[row]),
                "advantage": float(credit.advantage[row]),
                "logp": float(sum(scored.rollout.logp)),
            }
        )
    parts = run.train.world.gather(own)
    if run.train.world.rank == 0:
        rows = sorted((r for part in parts for r in part), key=lambda r: (r["group"], r["sample"]))
        write_rollouts(run.run_dir, run.state.step, rows)


def record(run: Run, row: Row, on_row: Callable[[Row], None]) -> None:
    """One row into metrics.jsonl (rank 0) and to whoever watches."""
    run.state.empty_steps = int(row.get("select/empty_steps", 0))
    run.state.nonfinite_steps = run.state.nonfinite_steps + 1 if nonfinite(row) else 0
    if run.train.world.rank == 0:
        run.metrics.append(row)
    on_row(row)


def save(run: Run) -> None:
    """A checkpoint of the state after the last step, by rank 0."""
    world = run.train.world
    if world.rank == 0:
        directory = run.run_dir / "checkpoints"
        checkpoint.save(
            directory, run.state.step, run.policy, run.learner, asdict(run.state), run.recipe.checkpoint.keep
        )
    world.barrier()


def check_alarms(run: Run, row: Row) -> None:
    """Stop a run that wastes its time: nothing kept for many steps, NaN in some, or an engine with other weights."""
    alarms = run.recipe.alarms
    if alarms.empty_steps and run.state.empty_steps >= alarms.empty_steps:
        raise Alarm(
            f"nothing was kept in {run.state.empty_steps} steps in a row ({row['select/all_wrong']:.0%} of prompts "
            f"all wrong, {row['select/all_correct']:.0%} all correct): they are too hard or too easy for this model, "
            "or the verifier rejects its format. Look at the newest file in rollouts/; raise rollout.samples, take "
            "other prompts, or set alarms.empty_steps = 0 to go on"
        )
    if alarms.nonfinite_steps and run.state.nonfinite_steps >= alarms.nonfinite_steps:
        which = ", ".join(name.replace("_", "-") for name in nonfinite(row))
        raise Alarm(
            f"NaN or infinity in the update of {run.state.nonfinite_steps} steps in a row (now in {which}): nothing "
            "can be learnt from such a step. Look for a division by zero or an overflow in an advantage, objective or "
            "penalty of yours, lower train.lr, or set alarms.nonfinite_steps = 0 to go on"
        )
    gap = row.get("policy/engine_mismatch", 0.0)
    if alarms.engine_mismatch and gap > alarms.engine_mismatch:
        raise Alarm(
            f"the engine's log-probs are {gap:.2f} nats from the learner's (alarms.engine_mismatch = "
            f"{alarms.engine_mismatch}): it samples from other weights than those that are trained"
        )


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Collects SIGTERM and SIGINT, so that a run stops between two steps; a second Ctrl-C stops at once."""
    seen: list[int] = []

    def note(number: int, frame: Any) -> None:
        if seen and number == signal.SIGINT:
            raise KeyboardInterrupt
        seen.append(number)

    try:
        before = {s: signal.signal(s, note) for s in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:  # not the main thread: whoever runs that thread handles signals
        before = {}
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
