"""TensorBoard: event files in `tensorboard/` of the run directory; `tensorboard --logdir runs` shows all runs."""

from __future__ import annotations

from collections.abc import Sequence

import tomli_w

from sieverl.text import printable
from sieverl.trackers.tracker import Entry, Place, Tracker
from sieverl.types import JsonObject


def open_tracker(place: Place) -> Tracker:
    """A writer of a new event file beside those of earlier starts."""
    return TensorBoard(place)


class TensorBoard:
    """PyTorch's SummaryWriter; each entry is on the disk when `log` returns."""

    def __init__(self, place: Place) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        folder = place.folder / "tensorboard"
        self.where = f"tensorboard --logdir {folder}"
        self.writer = SummaryWriter(str(folder))
        self.writer.add_text("recipe", as_it_is(tomli_w.dumps(place.recipe)), 0)

    def log(self, entry: Entry) -> None:
        for name, value in entry.metrics.items():
            self.writer.add_scalar(name, value, entry.step)
        for name, values in entry.histograms.items():
            self.writer.add_histogram(name, values, entry.step)
        if entry.groups:
            self.writer.add_text("groups", as_text(entry.groups), entry.step)
        self.writer.flush()

    def close(self, ok: bool) -> None:
        self.writer.close()


def as_text(rows: Sequence[JsonObject]) -> str:
    """The responses of groups as Markdown that shows them as they are, since they may hold anything."""
    texts = []
    for before, row in zip([{}, *rows], rows, strict=False):
        if row["group"] != before.get("group"):
            texts.append(f"group {row['group']}: {row['prompt']}\nanswer: {row['answer']}")
        about = ", ".join(f"{name} {row[name]}" for name in ("reward", "advantage", "status", "kept", "length"))
        texts.append(f"--- sample {row['sample']}: {about}\n{row['response']}")
    return as_it_is("\n\n".join(texts))


def as_it_is(text: str) -> str:
    """Text as a block of code in Markdown.

    >>> as_it_is("a\\n*b*")
    '    a\\n    *b*'
    """
    return "\n".join(f"    {line}" for line in printable(text).splitlines())
