"""Weights & Biases; offline with WANDB_MODE=offline, in `wandb/` of the run directory."""

from __future__ import annotations

from typing import Any

from sieverl.trackers.tracker import Entry, Place, Tracker

WAIT_S = 20.0  # for the network at the end, also where Python exits


def open_tracker(place: Place) -> Tracker:
    """A run of W&B, or the one of an earlier start."""
    return WeightsAndBiases(place)


class WeightsAndBiases:
    """A run of its own, beside others of this process. It asks for no key, and leaves the terminal alone."""

    def __init__(self, place: Place) -> None:
        import wandb

        self.wandb: Any = wandb
        settings = wandb.Settings(console="off", silent=True, reinit="create_new", finish_timeout=WAIT_S)
        self.run: Any = wandb.init(
            project=place.project,
            name=place.name,
            id=place.id,
            resume="allow",
            dir=str(place.folder),
            config=place.recipe,
            settings=settings,
        )
        offline = f"wandb sync {place.folder}/wandb/offline-run-*"
        self.where = offline if self.run.offline else str(self.run.url)

    def log(self, entry: Entry) -> None:
        found: dict[str, Any] = dict(entry.metrics)
        found |= {name: self.wandb.Histogram(values.tolist()) for name, values in entry.histograms.items()}
        if entry.groups:
            columns = list(entry.groups[0])
            found["groups"] = self.wandb.Table(columns, [[row[name] for name in columns] for row in entry.groups])
        self.run.log(found, step=entry.step, commit=True)

    def close(self, ok: bool) -> None:
        self.run.finish(exit_code=int(not ok))
