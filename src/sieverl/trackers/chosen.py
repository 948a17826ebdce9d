"""Which trackers a recipe names: those with a class here, or something of the user's. What is missing is refused."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

from sieverl.errors import UsageError, nearest
from sieverl.files import user_path
from sieverl.recipe.tables import Trackers
from sieverl.trackers.function import of_the_user
from sieverl.trackers.tracker import Place, Tracker
from sieverl.userfile import load_file

PROJECT = "sieverl"


@dataclass(frozen=True)
class Chosen:
    """A tracker that a run will have; `variable` is the environment variable that names its project."""

    name: str
    open: Callable[[Place], Tracker]
    variable: str = ""

    def project(self) -> str:
        """The project of a recipe that names none."""
        return os.environ.get(self.variable) or PROJECT


@dataclass(frozen=True)
class Known:
    """A tracker that has a class here: the modules that it needs, all of the extra of its name."""

    modules: tuple[str, ...]
    variable: str = ""


KNOWN = {
    "tensorboard": Known(("tensorboard",)),
    "wandb": Known(("wandb",), "WANDB_PROJECT"),
    "trackio": Known(("trackio",), "TRACKIO_PROJECT"),
    "mlflow": Known(("mlflow",), "MLFLOW_EXPERIMENT_NAME"),
}


def chosen(settings: Trackers) -> list[Chosen]:
    """The trackers of a recipe. Raises a UsageError for one that is not known, or whose package is not installed.

    >>> [one.name for one in chosen(Trackers())]
    []
    """
    return [_known(name) if ":" not in name else _file(name) for name in dict.fromkeys(settings.use)]


def given(trackers: Sequence[Any]) -> list[Chosen]:
    """Trackers that are Python objects: functions of a row, or objects with `log(entry)`.

    >>> [one.name for one in given([print, print])]
    ['print', 'print-2']
    """
    found: dict[str, Chosen] = {}
    for one in trackers:
        if not callable(one) and not hasattr(one, "log"):
            raise UsageError(f"a tracker is a function of a row or has log(entry), and {one!r:.80} is neither")
        name = base = getattr(one, "__name__", type(one).__name__)
        while name in found:
            name = f"{base}-{int(name.rpartition('-')[2]) + 1 if name != base else 2}"
        found[name] = Chosen(name, partial(of_the_user, one))
    return list(found.values())


def _known(name: str) -> Chosen:
    if name not in KNOWN:
        raise UsageError(
            f"trackers.use names {name!r}, which is none of {', '.join(KNOWN)}.{nearest(name, KNOWN)} One of your own "
            "is FILE.py:NAME"
        )
    for module in KNOWN[name].modules:
        if find_spec(module) is None:
            raise UsageError(
                f"trackers.use = {name!r} needs the package {module}; install it with pip install 'sieverl[{name}]'"
            )

    def open_it(place: Place) -> Tracker:
        tracker: Tracker = importlib.import_module(f"sieverl.trackers.{name}").open_tracker(place)
        return tracker

    return Chosen(name, open_it, KNOWN[name].variable)


def _file(name: str) -> Chosen:
    path, _, attribute = name.rpartition(":")
    if not user_path(path).is_file():
        raise UsageError(f"trackers.use names {name!r}, and {path} is not a file; write FILE.py:NAME")
    try:
        module = load_file(path)
    except Exception as error:  # whatever the user's file raises, the user is told where
        raise UsageError(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
    found = getattr(module, attribute, None)
    if not callable(found) and not hasattr(found, "log"):
        raise UsageError(f"{path} has no function or tracker named {attribute!r}")
    return Chosen(name, partial(of_the_user, found))
