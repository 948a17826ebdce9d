"""`sieverl.load_run`: a run directory as data frames and figures."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from sieverl.errors import DataError, nearest
from sieverl.run_dir import manifest
from sieverl.run_dir.rollouts import Kind
from sieverl.run_dir.saved import SavedRun, read_run
from sieverl.types import JsonObject

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame


def load_run(path: str | Path) -> TrainedRun:
    """The run in a directory; it may still be going on. Raises a DataError where there is none.

    >>> load_run("runs/nothing-there")
    Traceback (most recent call last):
    sieverl.errors.DataError: runs/nothing-there holds no run: it has neither metrics.jsonl nor recipe.toml
    """
    return TrainedRun(read_run(Path(path)))


@dataclass(frozen=True)
class TrainedRun:
    """What a run has left in its directory, as it was when it was read. A notebook shows its curve and last row.

    >>> import sieverl
    >>> run = sieverl.load_run("runs/demo-1")  # doctest: +SKIP
    >>> run.metrics["reward/accuracy"].tail(1).item()  # doctest: +SKIP
    0.87
    >>> run.responses(40).groupby("prompt").reward.mean()  # doctest: +SKIP
    """

    saved: SavedRun

    @property
    def path(self) -> Path:
        """Its directory."""
        return self.saved.path

    @property
    def recipe(self) -> JsonObject:
        """Its resolved recipe, as nested tables."""
        return dict(self.saved.recipe)

    @property
    def metrics(self) -> DataFrame:
        """A row a step and a column a metric; the index is the step, 0 the evaluation before training."""
        from pandas import DataFrame

        return DataFrame(list(self.saved.rows)).set_index("step") if self.saved.rows else DataFrame()

    def responses(self, step: int | None = None, kind: Kind = "step") -> DataFrame:
        """The responses of a step (by default the last one that has some), kept or not, a row each.

        With `kind="eval"` those of an evaluation. Raises a DataError that names the steps that have responses.
        """
        logged = self.saved.logged[kind]
        chosen = logged[-1] if step is None and logged else step
        table = None if chosen is None else self.saved.responses(chosen, kind=kind)
        if table is None:
            has = f"it has those of {logged[0]} to {logged[-1]} ({len(logged)})" if logged else "it has none"
            raise DataError(f"{self.path} has no responses of step {chosen}; {has}")
        return table.to_pandas()

    def figure(self, *metrics: str) -> Figure:
        """The learning curve, or a chart of these metrics over the steps. Raises a DataError for an unknown one."""
        from sieverl.display.plot import draw, learning_curve

        known = list(dict.fromkeys(name for row in self.saved.rows for name in row if name != "step"))
        if wrong := [name for name in metrics if name not in known]:
            hint = f"{nearest(wrong[0], known)} It has {', '.join(known)}"
            raise DataError(f"{self.path} has no metric {wrong[0]!r}.{hint}")
        return draw({name: self.saved.series(name) for name in metrics}) if metrics else learning_curve(self.saved.rows)

    def checkpoint(self, step: int | None = None) -> Path:
        """The directory of a checkpoint, in the format of Hugging Face; by default the newest that is whole."""
        folder = self.path / "checkpoints"
        path = manifest.newest(folder) if step is None else folder / f"step-{step}"
        if path is None or not path.is_dir():
            raise DataError(f"{self.path} has no checkpoint of step {step}; it has {self.saved.checkpoints or 'none'}")
        return path

    def __repr__(self) -> str:
        return f"TrainedRun({str(self.path)!r}, step {self.saved.step} of {self.saved.steps})"

    def _repr_html_(self) -> str:
        """The learning curve and the last row, for a notebook."""
        import io

        image = io.StringIO()
        self.figure().savefig(image, format="svg")
        svg = image.getvalue()
        last = self.saved.rows[-1] if self.saved.rows else {}
        cells = "".join(
            f"<tr><td>{escape(str(name))}</td><td>{value:.4g}</td></tr>"
            for name, value in last.items()
            if isinstance(value, int | float) and not name.startswith(("time/", "memory/"))
        )
        title = f"{self.saved.name}: step {self.saved.step} of {self.saved.steps}"
        table = f"<details><summary>last row</summary><table>{cells}</table></details>"
        return f"<b>{escape(title)}</b>{svg[svg.index('<svg') :]}{table}"
