"""Trackers of other trainers: those that are also ours, their project and the run's name there."""

from __future__ import annotations

from sieverl.migrate.draft import Draft
from sieverl.migrate.rules import Settings

OURS = ("tensorboard", "wandb", "trackio", "mlflow")
SHOWN = ("console", "none", "rich")  # what a run prints anyway


def trackers(settings: Settings, draft: Draft, use: str, project: str, run_name: str) -> None:
    """Set what was given; a tracker that is none of ours is listed."""
    if settings.has(use):
        value = settings[use]
        names = [str(name) for name in value] if isinstance(value, list | tuple) else [str(value)]
        if known := [name for name in names if name in OURS]:
            draft.set("trackers.use", known, settings.said(use))
        if others := [name for name in names if name not in (*OURS, *SHOWN)]:
            draft.note(use, others, "none of our trackers; one of your own is FILE.py:NAME in trackers.use")
    for name, key in ((project, "trackers.project"), (run_name, "trackers.run_name")):
        if settings.has(name):
            draft.set(key, str(settings[name]), settings.said(name))
