"""A run directory as displays read it: whatever is there, and in words what is not. Nothing is ever written.

A run may still be going, may have been cut off, or may be of another version: none of this is an error.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sieverl.errors import DataError, first_line, nearest
from sieverl.run_dir import manifest
from sieverl.run_dir.metrics import MetricsLog
from sieverl.run_dir.rollouts import COLUMNS, MARK, NEW, NULLABLE, PART, VERSION, Kind, rollout_path, schema_of
from sieverl.types import JsonObject, Metrics

if TYPE_CHECKING:
    import pyarrow

LARGEST_NUMBER = 10**300
LARGEST_TEXT = 64 << 20  # bytes of a recipe or an environment; more is none


@dataclass(frozen=True)
class SavedRun:
    """A run as it is in its directory now: `rows` of metrics, `recipe` and `environment` as they stand in their files.

    `problems` are what could not be read, in words; more of them come as responses are read.

    >>> SavedRun(Path("runs/a"), [{"step": 0}, {"step": 1, "train/loss": 0.5}], {}, []).series("train/loss")
    ([1], [0.5])
    """

    path: Path
    rows: Sequence[Metrics]
    recipe: JsonObject
    starts: Sequence[JsonObject]
    problems: list[str] = field(default_factory=list)

    @staticmethod
    def read(path: Path) -> SavedRun:
        """The run in a directory. Raises a DataError where there is none."""
        if not is_run(path):
            raise DataError(f"{path} holds no run: it has neither metrics.jsonl nor recipe.toml{_runs_below(path)}")
        problems: list[str] = []
        log = MetricsLog(path / "metrics.jsonl")
        try:
            rows = log.rows()
            if damaged := log.damaged():
                problems.append(f"metrics.jsonl: line {', '.join(map(str, damaged[:5]))} is damaged")
        except OSError as error:
            rows = []
            problems.append(f"metrics.jsonl: {first_line(error)}")
        last = {row["step"]: row for row in rows}  # of a step that was written twice, the later one
        recipe = _parsed(path / "recipe.toml", tomllib.loads, problems)
        starts = _parsed(path / "environment.json", json.loads, problems).get("starts", [])
        starts = [start for start in starts if isinstance(start, dict)] if isinstance(starts, list) else []
        return SavedRun(path, [last[step] for step in sorted(last)], recipe, starts, problems)

    @property
    def name(self) -> str:
        """The name of its directory."""
        return self.path.resolve().name

    @property
    def step(self) -> int:
        """The last step that has a row; 0 without any."""
        return int(self.rows[-1]["step"]) if self.rows else 0

    @property
    def steps(self) -> int | None:
        """How many steps the recipe asks for; None where it does not say."""
        steps = self.recipe.get("steps")
        return steps if isinstance(steps, int) else None

    def setting(self, key: str, default: Any = None) -> Any:
        """A dotted key of the recipe.

        >>> SavedRun(Path("a"), [], {"rollout": {"samples": 8}}, []).setting("rollout.samples")
        8
        """
        found: Any = self.recipe
        for part in key.split("."):
            if not isinstance(found, dict) or part not in found:
                return default
            found = found[part]
        return found

    def series(self, metric: str) -> tuple[list[int], list[float]]:
        """The steps that have a metric, and its values there."""
        found = [(int(row["step"]), row[metric]) for row in self.rows if _drawable(row.get(metric))]
        return [step for step, _ in found], [float(value) for _, value in found]

    @property
    def heldout(self) -> str | None:
        """The metric of the held-out accuracy, such as `eval/demo/avg@4`; None without any."""
        names = [name for row in self.rows for name in row if name.startswith("eval/") and "/avg@" in name]
        return names[0] if names else None

    def best_step(self, among: Sequence[int]) -> int | None:
        """The one of these steps with the best held-out accuracy, of equal ones the last; None where none has any.

        >>> rows = [{"step": step, "eval/a/avg@4": score} for step, score in ((1, 0.5), (2, 0.5), (3, 0.4))]
        >>> SavedRun(Path("a"), rows, {}, []).best_step([1, 2, 3])
        2
        """
        scores = dict(zip(*self.series(self.heldout), strict=True)) if self.heldout else {}
        return max((step for step in among if step in scores), key=lambda step: (scores[step], step), default=None)

    # --- responses ----------------------------------------------------------------------------------

    @cached_property
    def logged(self) -> dict[Kind, list[int]]:
        """The steps that have a file of responses, and the evaluations that have one."""
        kinds: tuple[Kind, Kind] = ("step", "eval")
        return {kind: _numbers(self.path / "rollouts", kind) for kind in kinds}

    def responses(
        self, step: int, columns: Sequence[str] | None = None, kind: Kind = "step", where: Any = None
    ) -> pyarrow.Table | None:
        """The responses of a step, as a table of `columns` (all by default); None where they cannot be read.

        A column that the file lacks, since an older version wrote it, is null. `where` is a filter of PyArrow's, such
        as `[("group", "=", 3)]`, which reads little more than what it keeps.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = rollout_path(self.path, step, kind)
        try:
            schema = pq.read_schema(path)
            check_schema(schema)
            parts = [name for name in schema.names if name.startswith(PART)]
            wanted = list(columns or [*COLUMNS, *parts])
            table = pq.read_table(path, columns=[name for name in wanted if name in schema.names], filters=where)
            check_gaps(table)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, pa.ArrowException) as error:
            self._missing(path, first_line(error))
            return None
        for name in wanted:
            if name not in table.column_names:
                table = table.append_column(name, pa.nulls(table.num_rows))
        return table.select(wanted)

    def _missing(self, path: Path, why: str) -> None:
        problem = f"rollouts/{path.name} is left out: {why}"
        if problem not in self.problems:
            self.problems.append(problem)

    @property
    def checkpoints(self) -> list[int]:
        """The steps that have a checkpoint."""
        return manifest.steps(self.path / "checkpoints")


def _drawable(value: float | None) -> bool:
    """Whether a metric is there, and no integer beyond all floats."""
    return value is not None and abs(value) < LARGEST_NUMBER


def read_run(path: Path) -> SavedRun:
    """The run in a directory. Raises a DataError that names a run with a similar name where there is none."""
    try:
        return SavedRun.read(path)
    except DataError as error:
        known = [str(found) for folder in (path.parent, Path("runs")) for found in runs_in(folder)]
        raise DataError(f"{error}{nearest(str(path), known)}") from error


def is_run(path: Path) -> bool:
    """Whether a directory looks like a run's."""
    return (path / "metrics.jsonl").is_file() or (path / "recipe.toml").is_file()


def runs_in(folder: Path) -> list[Path]:
    """The runs in a folder, or the folder itself if it is one, the newest first.

    >>> runs_in(Path("nowhere"))
    []
    """
    if is_run(folder):
        return [folder]
    try:
        found = [path for path in folder.iterdir() if is_run(path)]
        return sorted(found, key=_changed, reverse=True)
    except OSError:
        return []


def _changed(path: Path) -> float:
    files = [file for file in (path / "metrics.jsonl", path / "recipe.toml") if file.is_file()]
    return max((file.stat().st_mtime for file in files), default=0.0)


def _runs_below(path: Path) -> str:
    names = [str(found) for found in runs_in(path)[:5]]
    return f"; there are {', '.join(names)}" if names else ""


def _parsed(path: Path, parse: Callable[[str], Any], problems: list[str]) -> JsonObject:
    """The table in a file; empty where there is none."""
    try:
        if path.stat().st_size > LARGEST_TEXT:
            raise ValueError(f"it has {path.stat().st_size:,} bytes")
        found = parse(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("it holds no table")
        return found
    except FileNotFoundError:
        problems.append(f"{path.name} is missing")
    except (OSError, ValueError, RecursionError) as error:
        problems.append(f"{path.name}: {first_line(error)}")
    return {}


def _numbers(folder: Path, kind: Kind) -> list[int]:
    """The steps of the files of a kind, ascending."""
    names = (path.stem.removeprefix(f"{kind}-") for path in folder.glob(f"{kind}-*.parquet"))
    return sorted(int(name) for name in names if name.isdigit() and name.isascii())


def check_schema(schema: pyarrow.Schema) -> None:
    """Raise a ValueError for a file of a newer version, or whose columns are not those that this program writes."""
    import pyarrow as pa

    version = _version(schema.metadata)
    if version > VERSION:
        raise ValueError(f"it is of version {version}; this program reads up to {VERSION}")
    ours = schema_of([])
    for name in schema.names:
        wanted = ours.field(name).type if name in COLUMNS else pa.float64()
        if (name in COLUMNS or name.startswith(PART)) and schema.field(name).type != wanted:
            raise ValueError(f"its column {name} is {schema.field(name).type}, not {wanted}")
    if missing := [name for name in COLUMNS if name not in schema.names and name not in NEW]:
        raise ValueError(f"it has no column {missing[0]}")


def check_gaps(table: pyarrow.Table) -> None:
    """Raise a ValueError where a column has nulls that must not have any."""
    for name in table.column_names:
        if name in COLUMNS and name not in {*NULLABLE, *NEW} and table[name].null_count:
            raise ValueError(f"its column {name} has gaps")


def _version(metadata: dict[bytes, bytes] | None) -> int:
    """The version that a file says it has; 1 where it says nothing."""
    text = (metadata or {}).get(MARK, b"1")
    return int(text) if text.isdigit() and len(text) < 9 else 1
