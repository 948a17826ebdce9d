"""MLflow: a server with MLFLOW_TRACKING_URI, or else the database mlflow.db in the working directory."""

from __future__ import annotations

import re
import time
from typing import Any

import numpy as np

from sieverl.trackers.tracker import Entry, Place, Tracker, flat

LONGEST = 500  # characters of a parameter: what every server takes
AT_ONCE = 100  # parameters, likewise
TAG = "sieverl.id"
QUANTILES = (10, 50, 90)
_STRANGE = re.compile(r"[^\w\-. /]")


def open_tracker(place: Place) -> Tracker:
    """A run of MLflow, or the one of an earlier start."""
    return MLflow(place)


class MLflow:
    """A run that is found again by a tag. MLflow has no histograms: quantiles are metrics instead."""

    def __init__(self, place: Place) -> None:
        from mlflow import MlflowClient, entities

        self.entities: Any = entities
        self.client: Any = MlflowClient()
        found = self.client.get_experiment_by_name(place.project)
        experiment = found.experiment_id if found else self.client.create_experiment(place.project)
        there = self.client.search_runs([experiment], f"tags.`{TAG}` = '{place.id}'")
        if there:
            self.id = there[0].info.run_id
            self.client.update_run(self.id, "RUNNING", place.name)
        else:
            self.id = self.client.create_run(experiment, run_name=place.name, tags={TAG: place.id}).info.run_id
            params = [entities.Param(_name(k), str(v)[:LONGEST]) for k, v in flat(place.recipe).items()]
            for start in range(0, len(params), AT_ONCE):
                self.client.log_batch(self.id, params=params[start : start + AT_ONCE])
        self.where = f"run {self.id} of experiment {place.project}"

    def log(self, entry: Entry) -> None:
        found = dict(entry.metrics)
        for name, values in entry.histograms.items():
            found |= {f"{name}/p{q}": float(np.percentile(values, q)) for q in QUANTILES}
        now = int(time.time() * 1000)
        metrics = [self.entities.Metric(_name(name), value, now, entry.step) for name, value in found.items()]
        self.client.log_batch(self.id, metrics=metrics)
        if entry.groups:
            table = {"columns": list(entry.groups[0]), "data": [list(row.values()) for row in entry.groups]}
            self.client.log_dict(self.id, table, f"groups/step-{entry.step:06d}.json")

    def close(self, ok: bool) -> None:
        self.client.set_terminated(self.id, "FINISHED" if ok else "FAILED")


def _name(name: str) -> str:
    """A name that MLflow takes.

    >>> _name("eval/demo/avg@4")
    'eval/demo/avg_at_4'
    """
    return _STRANGE.sub("_", name.replace("@", "_at_"))
