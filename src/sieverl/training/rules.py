"""What silently ruins a run, as a list of rules, each of which looks at one number."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from sieverl.recipe import AlarmSetting, Recipe
from sieverl.training.state import Run
from sieverl.types import Metrics

# mean |log-prob difference| in nats: beyond what float32 explains, and beyond what bfloat16 or older weights explain
ROUNDING, OFF_POLICY = 0.001, 0.5


Compare = Callable[[Any, Any], Any]  # what `operator` has


class Found(NamedTuple):
    """A rule that fired: its number, the threshold that it passed, and where."""

    rule: Rule
    value: float
    setting: AlarmSetting
    run: Run
    row: Metrics

    def __str__(self) -> str:
        """What happened, what to do, and, where the run stops, how to go on all the same."""
        go_on = f", or set alarms.{self.rule.goes_on} to go on" if self.setting.do == "stop" else ""
        return f"{self.rule.says(self)}. {self.rule.advice}{go_on}"


@dataclass(frozen=True)
class Rule:
    """One alarm: `value` is what it `looks_at`, None in a step that says nothing of it.

    It fires when the threshold was passed (`beyond`) in a share of its last steps, both of its `setting`. `says` is
    what happened in words, `advice` what to do.
    """

    name: str
    looks_at: str
    value: Callable[[Run, Metrics], float | None]
    says: Callable[[Found], str]
    advice: str
    beyond: Compare = operator.gt
    setting: Callable[[Recipe], AlarmSetting] | None = None  # by default the table of its name
    default: str = ""  # in words, where it is no such table

    @property
    def goes_on(self) -> str:
        """The key of the recipe with which a run that it stopped goes on."""
        return f"{self.name} = 0" if self.setting else f'{self.name}.do = "warn"'

    def set_to(self, recipe: Recipe) -> AlarmSetting:
        """What the recipe says of it."""
        if self.setting is not None:
            return self.setting(recipe)
        setting: AlarmSetting = getattr(recipe.alarms, self.name)
        return setting


# --- what the rules look at -------------------------------------------------------------------------


def metric(name: str) -> Callable[[Run, Metrics], float | None]:
    """The number of that name in the row of a step; `<name>` in it is that of the evaluation."""
    return lambda run, row: row.get(name.replace("<name>", run.recipe.evaluate.name))


def rate(name: str) -> Callable[[Run, Metrics], float | None]:
    """The same as a share of the step's responses."""
    return lambda run, row: row[name] / row["rollout/responses"] if name in row else None


def accuracy(run: Run, row: Metrics) -> float | None:
    """The share of correct responses; None where graded rewards tell responses apart all the same."""
    return None if run.state.graded and row.get("reward/std") else row.get("reward/accuracy")


def growth(run: Run, row: Metrics) -> float | None:
    """The mean length of responses over that of the first step."""
    length = row.get("rollout/length_mean")
    return None if length is None else length / max(1.0, run.state.watched.start.setdefault("length", length))


def heldout_score(run: Run) -> str:
    """The name of the held-out accuracy."""
    return f"{run.recipe.evaluate.name}/avg@{run.recipe.evaluate.samples}"


def below_start(run: Run, row: Metrics) -> float | None:
    """How far held-out accuracy is below the 95% interval of the first evaluation; negative if it is not."""
    score = heldout_score(run)
    if f"eval/{score}" not in row:
        return None
    low = run.state.watched.start.setdefault("heldout_low", row[f"eval_ci/{score}/low"])
    return float(low - row[f"eval/{score}"])


def counted(key: str) -> Callable[[Recipe], AlarmSetting]:
    """The setting of a key of the recipe that is a number of steps in a row; 0 turns it off."""

    def setting(recipe: Recipe) -> AlarmSetting:
        limit = getattr(recipe.alarms, key)
        return AlarmSetting(do="stop" if limit else "off", threshold=limit)

    return setting


def mismatch(recipe: Recipe) -> AlarmSetting:
    """The setting of `engine_mismatch`: by default what rounding, older weights and bfloat16 do not explain."""
    limit = recipe.alarms.engine_mismatch
    if limit is None:
        exact = recipe.dtype != "bfloat16" and not recipe.rollout.staleness
        limit = ROUNDING if exact else OFF_POLICY
    return AlarmSetting(do="stop" if limit else "off", threshold=limit)


# --- the rules --------------------------------------------------------------------------------------

RULES = (
    Rule(
        "empty_steps",
        "steps in a row in which nothing was kept",
        lambda run, row: run.state.empty_steps,
        lambda f: (
            f"nothing was kept in {f.value} steps in a row ({f.row['select/all_wrong']:.0%} of prompts all wrong, "
            f"{f.row['select/all_correct']:.0%} all correct): they are too hard or too easy for this model, or the "
            "verifier rejects its format"
        ),
        "Look at the newest file in rollouts/; raise rollout.samples, take other prompts",
        operator.ge,
        counted("empty_steps"),
        "stop from 20 on",
    ),
    Rule(
        "nonfinite_steps",
        "steps in a row with NaN or infinity in the update",
        lambda run, row: run.state.nonfinite_steps,
        lambda f: (
            f"NaN or infinity in the update of {f.value} steps in a row (now in "
            f"{', '.join(name.replace('_', '-') for name in f.run.nonfinite)}): such steps teach nothing"
        ),
        "Look for a division by zero or an overflow in an advantage, objective or penalty of yours (inspect/ has the "
        "batches), lower train.lr",
        operator.ge,
        counted("nonfinite_steps"),
        "stop from 3 on",
    ),
    Rule(
        "engine_mismatch",
        "`policy/engine_mismatch`",
        metric("policy/engine_mismatch"),
        lambda f: (
            f"the engine ({f.run.recipe.rollout.engine}) samples from other weights than those that are trained: its "
            f"log-probs are {f.value:.2g} nats from the learner's (alarms.engine_mismatch = {f.setting.threshold:g}). "
            "Its last update arrived not at all or in part, its weights were replaced, or its kernels compute "
            "something else"
        ),
        "docs/engines.md says how to find out",
        operator.gt,
        mismatch,
        "stop above 0.001 nats a token; in bfloat16 or with staleness 0.5",
    ),
    Rule(
        "little_kept",
        "`select/kept_fraction`",
        metric("select/kept_fraction"),
        lambda f: (
            f"hardly anything is kept (now {f.value:.1%} of responses): updates from so few responses move the policy "
            "by chance"
        ),
        "Take easier prompts (or harder ones, where all are correct), raise rollout.samples or rollout.prompts, lower "
        "train.lr",
        operator.le,
    ),
    Rule(
        "reward_zero",
        "`reward/accuracy`",
        accuracy,
        lambda f: "no response was correct for a while: there is nothing to learn from",
        "Read the newest file in rollouts/: where answers are right, the verifier or the format it asks for is wrong; "
        "where they are not, take easier prompts",
        operator.le,
    ),
    Rule(
        "reward_one",
        "`reward/accuracy`",
        accuracy,
        lambda f: "every response was correct for a while: there is nothing left to learn",
        "Read the newest file in rollouts/, since the verifier may accept anything; take harder prompts, or end here",
        operator.ge,
    ),
    Rule(
        "entropy",
        "`policy/entropy`",
        metric("policy/entropy"),
        lambda f: (
            f"entropy has collapsed to {f.value:.2g} nats a token: the responses to a prompt are nearly all the same"
        ),
        "Go back to an earlier checkpoint; lower train.lr, raise axes.clip_high, add axes.entropy_coefficient or a KL "
        "penalty (axes.kl_coefficient)",
        operator.lt,
    ),
    Rule(
        "kl_old",
        "`policy/kl_old`",
        metric("policy/kl_old"),
        lambda f: f"the policy moves by {f.value:.2g} nats a token within a step, far out of its clip",
        "Lower train.lr, train.epochs or train.minibatches, or set train.max_grad_norm",
    ),
    Rule(
        "kl_ref",
        "`eval/<name>/kl_ref`",
        metric("eval/<name>/kl_ref"),
        lambda f: f"the policy is {f.value:.2g} nats a token from the one that the run began with",
        "Compare held-out accuracy with the start's: if it is not higher, lower train.lr or add a KL penalty "
        "(axes.kl_coefficient)",
    ),
    Rule(
        "length",
        "`rollout/length_mean` over that of the first step",
        growth,
        lambda f: f"responses are {f.value:.1f} times as long as in the first step",
        'Look at the newest file in rollouts/ for repetition; set axes.shape = "overlong" or train.mask_truncated',
    ),
    Rule(
        "truncated",
        "`rollout/truncated`",
        metric("rollout/truncated"),
        lambda f: f"every response was cut off at {f.run.recipe.rollout.max_tokens} tokens, so that none gets a reward",
        "Raise rollout.max_tokens; where responses do not end by themselves, set rollout.stop, or data.template for a "
        "model that has no chat format",
        operator.ge,
    ),
    Rule(
        "verifier_errors",
        "`verify/errors` / `rollout/responses`",
        rate("verify/errors"),
        lambda f: f"the verifier fails on {f.value:.0%} of responses, and each counts as wrong",
        "Repair what the notes on the steps name; `sieverl verify` tries it on a file",
    ),
    Rule(
        "verifier_timeouts",
        "`verify/timeouts` / `rollout/responses`",
        rate("verify/timeouts"),
        lambda f: f"the verifier takes too long for {f.value:.0%} of responses, and each counts as wrong",
        "Raise verify.timeout_s, lower verify.workers to the number of free cores, or make the verifier faster",
    ),
    Rule(
        "heldout",
        "the start's `eval_ci/<name>/avg@<k>/low` less `eval/<name>/avg@<k>`",
        below_start,
        lambda f: (
            f"held-out accuracy is {f.row['eval/' + heldout_score(f.run)]:.1%}, below the interval of the start (from "
            f"{f.run.state.watched.start['heldout_low']:.1%} on): the run has made the model worse"
        ),
        "By chance alone up to one evaluation in 12 is below; if the next one is, too, go back to an earlier "
        "checkpoint and lower train.lr, add a KL penalty (axes.kl_coefficient) or take easier prompts",
    ),
)


def markdown() -> str:
    """The table of the rules in docs/alarms.md."""
    lines = ["| rule | looks at | default | what to do |", "|-|-|-|-|"]
    for rule in RULES:
        default = rule.default or _in_words(rule, rule.set_to(Recipe()))
        lines.append(f"| `{rule.name}` | {rule.looks_at} | {default} | {rule.advice} |")
    return "\n".join(lines)


SIDES: dict[Compare, str] = {
    operator.gt: "above",
    operator.ge: "from",
    operator.lt: "below",
    operator.le: "at most",
}


def _in_words(rule: Rule, setting: AlarmSetting) -> str:
    times = f" in {setting.steps} in a row" if setting.steps > 1 else ""
    if setting.share < 1:
        times = f" in {setting.share:.0%} of the last {setting.steps}"
    return f"{setting.do}: {SIDES[rule.beyond]} {setting.threshold:g}{times}"
