"""One frame of the live display: what is shown of a run, drawn for a width and a height.

Colours are never all that tells two things apart: bars have different characters, and the numbers beside them.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from sieverl.display.bars import lengths, spark
from sieverl.display.console import duration, part_means, running_mean
from sieverl.display.said import Said
from sieverl.text import printable
from sieverl.types import Metrics

LABEL = 12  # columns of the names at the left
GROUPS = (("all wrong", "░", "red"), ("mixed", "▓", "cyan"), ("all right", "█", "green"))
PHASES = (("rollout", "█", "blue"), ("update", "▓", "magenta"), ("evaluate", "░", "yellow"))
RESPONSE_LINES = 4
NOTES = 3  # that are shown while the run goes on; at its end all are


@dataclass(frozen=True)
class Sample:
    """A response of a step: what was asked, what was answered, and what became of it, such as `correct, kept`."""

    step: int
    prompt: str
    response: str
    verdict: str


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What a frame shows. `left` are seconds, None where nothing is known; `rows` are the latest rows, oldest first.

    `checkpoint` is the step of the newest one and its age in seconds.
    """

    title: Sequence[str]
    steps: int
    heldout: str
    rows: Sequence[Metrics]
    mean: float | None = None
    left: float | None = None
    graded: bool = False
    notes: Sequence[Said] = ()
    sample: Sample | None = None
    checkpoint: tuple[int, float] | None = None
    saving: bool = False
    ended: bool = False

    @property
    def step(self) -> int:
        """The last step that has a row."""
        return int(self.rows[-1]["step"]) if self.rows else 0

    @property
    def last(self) -> Metrics:
        """The row of the last step; no more than its number where there was none."""
        return next((row for row in reversed(self.rows) if "reward/accuracy" in row), {"step": 0})

    def series(self, metric: str) -> list[float]:
        """The values of a metric, without those that are missing or not finite."""
        found = [row.get(metric) for row in self.rows]
        return [float(value) for value in found if value is not None and math.isfinite(value)]


@dataclass(frozen=True)
class Section:
    """A named line or more; of those that do not fit the one with the highest `rank` goes first."""

    name: str
    draw: Callable[[Scene, int], Text | None]
    rank: int


def frame(scene: Scene, width: int, without: int = 0) -> Table:
    """The frame, at most `width` columns wide, without as many of its sections, the least important first."""
    ranked = sorted(SECTIONS, key=lambda section: section.rank)
    kept = ranked[: max(2, len(ranked) - without)]
    table = Table.grid(padding=0)
    table.add_column(width=LABEL, no_wrap=True)
    table.add_column(width=max(1, width - LABEL), overflow="fold")
    for section in SECTIONS:
        if section in kept and (text := section.draw(scene, max(1, width - LABEL))) is not None:
            table.add_row(Text(section.name, "bold" if section.name == "step" else "dim"), text)
    return table


# --- sections ---------------------------------------------------------------------------------------


def head(scene: Scene, width: int) -> Text:
    """Algorithm, model, device, run directory."""
    return Text(", ".join(printable(part) for part in scene.title), "bold")


def progress(scene: Scene, width: int) -> Text:
    """Steps done, a bar, time left."""
    share = min(1.0, scene.step / max(1, scene.steps))
    left = "" if scene.left is None or scene.ended else f", {duration(scene.left)} left"
    words = f"{scene.step} of {scene.steps}, {share:.0%}{left}"
    bar = max(0, width - 34)
    done = round(bar * share)
    text = Text.assemble(("━" * done, "green"), ("─" * (bar - done), "dim"), " " * bool(bar), words)
    if not scene.step:
        text.append(" (no step is done yet)", "dim")
    return text


def curve(name: str, show: Callable[[float], str]) -> Callable[[Scene, int], Text | None]:
    """A section with the curve of a metric and its last value."""

    def draw(scene: Scene, width: int) -> Text | None:
        return _curve(scene.series(name), show, width)

    return draw


def _curve(values: Sequence[float], show: Callable[[float], str], width: int) -> Text | None:
    if not values:
        return None
    room = max(8, min(60, width - 34))
    return Text.assemble((f"{spark(values, room):{room}}", "cyan"), " ", (show(values[-1]), "bold"))


def accuracy(scene: Scene, width: int) -> Text | None:
    """The curve of accuracy, with its running mean and the held-out accuracy."""
    text = _curve(scene.series("reward/accuracy"), _percent, width)
    held = scene.series(scene.heldout)
    if text is not None and (mean := scene.mean or running_mean(scene.rows)) is not None:
        text.append(f" mean {mean:.1%}")
    if held:
        text = text or Text()
        text.append(f"{' ' * bool(text)}held out {held[-1]:.1%}")
    return text


def reward(scene: Scene, width: int) -> Text | None:
    """The curve of the reward and the means of its parts, where they say more than accuracy."""
    parts = part_means(scene.last)
    if not scene.graded and not parts:
        return None
    text = _curve(scene.series("reward/mean"), "{:.3f}".format, width)
    if text is not None and parts:
        text.append(f" {', '.join(f'{printable(name)} {value:.3f}' for name, value in parts.items())}")
    return text


def kl(scene: Scene, width: int) -> Text | None:
    """The curve of the KL to the reference policy where that is measured, else of that in a step."""
    reference = scene.series(f"{scene.heldout.rpartition('/')[0]}/kl_ref")
    text = _curve(reference or scene.series("policy/kl_old"), "{:.4f}".format, width)
    return text and text.append(" to the reference" if reference else " old to new policy")


def kept(scene: Scene, width: int) -> Text | None:
    """How many prompts of the last step were all wrong, mixed, all right, and the share of responses kept."""
    row, count = scene.last, scene.last.get("select/prompts")
    if count is None:
        return None
    wrong, right = row.get("select/all_wrong") or 0.0, row.get("select/all_correct") or 0.0
    shares = (wrong, max(0.0, 1 - wrong - right), right)
    text = _blocks(shares, GROUPS, max(8, min(60, width - 34)))
    text.append(
        f" {row.get('select/kept_fraction') or 0:.0%} of {row['rollout/responses']:.0f} responses kept\n", "bold"
    )
    for i, (share, (name, block, colour)) in enumerate(zip(shares, GROUPS, strict=True)):
        text.append("  " * bool(i)).append(f"{block} {share * count:.0f} {name}", colour)
    return text


def phases(scene: Scene, width: int) -> Text | None:
    """Where the time went, over the rows that are shown."""
    seconds = [sum(scene.series(f"time/{name}")) for name, _, _ in PHASES]
    if not sum(seconds):
        return None
    text = _blocks(seconds, PHASES, max(8, min(60, width - 34)))
    if (step := scene.last.get("time/step")) is not None:
        text.append(f" {step:.1f} s the last step", "bold")
    text.append("\n")
    for i, (spent, (name, block, colour)) in enumerate(zip(seconds, PHASES, strict=True)):
        text.append("  " * bool(i)).append(f"{block} {name} {spent / sum(seconds):.0%}", colour)
    return text


def statuses(scene: Scene, width: int) -> Text | None:
    """What became of the responses of the last step."""
    row = scene.last
    if "rollout/responses" not in row:
        return None
    shares = [(name, row.get(key) or 0.0) for name, key in
              (("no answer", "verify/no_answer"), ("truncated", "rollout/truncated"))]  # fmt: skip
    counts = [(name, row.get(f"verify/{name}") or 0.0) for name in ("timeouts", "errors")]
    parts = [f"{row.get('rollout/length_mean') or 0:.0f} tokens"]
    text = Text(", ".join([*parts, *(f"{share:.1%} {name}" for name, share in shares)]))
    for name, count in counts:
        text.append(", ").append(f"{count:.0f} {name}", "yellow" if count else "")
    return text


def checkpoint(scene: Scene, width: int) -> Text:
    """The newest checkpoint and its age, and whether one is being written."""
    now = ", saving" if scene.saving and not scene.ended else ""
    if scene.checkpoint is None:
        return Text(f"none yet{now}")
    step, age = scene.checkpoint
    return Text(f"step {step}, {duration(age)} ago{now}")


def response(scene: Scene, width: int) -> Text | None:
    """One sampled response."""
    if (sample := scene.sample) is None:
        return None
    lines = _lines(sample.response, width)
    if len(lines) > RESPONSE_LINES:
        lines = [*lines[: RESPONSE_LINES - 2], "...", lines[-1]]
    asked = f"step {sample.step}, {printable(sample.verdict)}: "
    prompt = textwrap.shorten(printable(sample.prompt), max(20, 2 * width - len(asked)), placeholder=" ...")
    return Text.assemble((f"{asked}{prompt}", "dim"), "\n", "\n".join(lines))


def warnings(scene: Scene, width: int) -> Text | None:
    """The notes on steps, counted; the latest of them while the run goes on."""
    if not scene.notes:
        return None
    ordered = sorted(scene.notes, key=lambda one: one.last)
    shown = ordered if scene.ended else ordered[-NOTES:]
    lines = [printable(str(one)) for one in shown]
    if len(shown) < len(ordered):
        lines.insert(0, f"({len(ordered) - len(shown)} of other kinds before; all are listed at the end)")
    return Text("\n".join(lines), "yellow")


def _lines(text: str, width: int) -> list[str]:
    """The lines of a text in a width, without empty ones."""
    wrapped = (textwrap.wrap(line, width) for line in printable(text).splitlines())
    return [line for lines in wrapped for line in lines]


def _blocks(shares: Sequence[float], kinds: Sequence[tuple[str, str, str]], width: int) -> Text:
    bars = zip(lengths(shares, width), kinds, strict=True)
    return Text.assemble(*((block * length, colour) for length, (_, block, colour) in bars))


def _percent(share: float) -> str:
    return f"{share:.1%}"


SECTIONS = (
    Section("run", head, 1),
    Section("step", progress, 0),
    Section("accuracy", accuracy, 2),
    Section("reward", reward, 4),
    Section("entropy", curve("policy/entropy", "{:.3f}".format), 6),
    Section("KL", kl, 7),
    Section("prompts", kept, 5),
    Section("time", phases, 10),
    Section("responses", statuses, 8),
    Section("checkpoint", checkpoint, 9),
    Section("a response", response, 11),
    Section("warnings", warnings, 3),
)
