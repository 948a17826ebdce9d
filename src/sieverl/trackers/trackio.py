"""Trackio: a database on this machine (`trackio show`), or a Space with TRACKIO_SPACE_ID."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from sieverl.trackers.tracker import Entry, Place, Tracker

SHORT = 6  # characters of the id that make the name of a run its own: Trackio finds a run by its name


def open_tracker(place: Place) -> Tracker:
    """A run of Trackio, or the one of an earlier start."""
    return Trackio(place)


class Trackio:
    """A run that is found again by its name."""

    def __init__(self, place: Place) -> None:
        import trackio
        import trackio.run
        import trackio.utils

        for module in (trackio, trackio.run, trackio.utils):
            be_quiet(module)
        self.trackio: Any = trackio
        name = f"{place.name}-{place.id[:SHORT]}"
        self.run: Any = trackio.init(
            project=place.project, name=name, resume="allow", config=place.recipe, embed=False, auto_log_cpu=False
        )
        self.where = f"trackio show --project {place.project}"

    def log(self, entry: Entry) -> None:
        found: dict[str, Any] = dict(entry.metrics)
        found |= {name: self.trackio.Histogram(values) for name, values in entry.histograms.items()}
        if entry.groups:
            found["groups"] = self.trackio.Table(data=list(entry.groups))
        self.run.log(found, step=entry.step)

    def close(self, ok: bool) -> None:
        self.run.finish()


def be_quiet(module: ModuleType) -> None:
    """What a module prints would be on standard output, among the data of the run."""
    vars(module)["print"] = lambda *args, **options: None
