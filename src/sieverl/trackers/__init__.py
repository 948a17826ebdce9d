"""Trackers: what sends a run to TensorBoard, Weights & Biases, Trackio, MLflow, or a function of the user's."""

from sieverl.trackers.chosen import Chosen, chosen, given
from sieverl.trackers.tracker import Entry, Place, Tracker
from sieverl.trackers.tracking import Tracking

__all__ = ["Chosen", "Entry", "Place", "Tracker", "Tracking", "chosen", "given"]
