"""One Parquet file of responses a step (or evaluation), one row a response, kept or not, under one schema.

docs/run-directory.md says what each column is. `VERSION` counts its changes, and stands in every file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from sieverl.files import atomic_write
from sieverl.text import storable
from sieverl.types import Row, Status, Verdict

if TYPE_CHECKING:
    import pyarrow

Kind = Literal["step", "eval"]
PART = "reward/"  # columns of the parts of a reward that is a sum
VERSION = 2
MARK = b"sieverl.rollouts"  # the key of the version in a file's metadata
ROWS = 256  # of a row group: the responses to a few prompts are read without the rest


@dataclass(frozen=True, kw_only=True)
class RolloutRow:
    """One response as it is logged. `parts` are the parts of a reward that is a sum, each in a column `reward/<name>`.

    `group` is the number of the sampled prompt within the step. `extracted` is the answer that the verifier read, null
    where it read none or where only the user's function knows. `reason` is why it was not kept. `tokens` are the ids of
    the response, `engine_logp` their log-probs as they were sampled, in nats, and `logp` the sum of these;
    `learner_logp` are the learner's before it changed the weights, null where it did not compute the response.
    `policy_version` is the number of steps that the weights which sampled it were trained. `kept`, `reason` and
    `advantage` are null in an evaluation.
    """

    step: int
    group: int
    sample: int
    prompt_id: int
    prompt: str
    answer: str
    response: str
    reward: float
    correct: bool
    status: str
    length: int
    truncated: bool
    extracted: str | None = None
    kept: bool | None = None
    reason: str | None = None
    advantage: float | None = None
    logp: float
    policy_version: int | None = None
    tokens: Sequence[int] = ()
    engine_logp: Sequence[float] = ()
    learner_logp: Sequence[float] | None = None
    parts: Mapping[str, float | None] = field(default_factory=dict)

    @property
    def verdict(self) -> Verdict:
        """The verdict that was logged."""
        return Verdict(self.reward, self.correct, Status(self.status), self.parts)


COLUMNS = {f.name: str(f.type).removesuffix(" | None") for f in fields(RolloutRow) if f.name != "parts"}
NULLABLE = {f.name for f in fields(RolloutRow) if str(f.type).endswith(" | None")}
TEXTS = [name for name, kind in COLUMNS.items() if kind == "str"]
NEW = ("extracted", "reason", "tokens", "engine_logp", "learner_logp")  # which files of version 1 lack
LISTS = [name for name, kind in COLUMNS.items() if kind.startswith("Sequence")]
DICTIONARIES = ["prompt", "answer", "status", "reason"]  # columns with few values; dictionaries of others cost time


def rollout_path(run_dir: Path, step: int, kind: Kind = "step") -> Path:
    """Where the responses of one step (or of the evaluation after it, kind `eval`) are."""
    return run_dir / "rollouts" / f"{kind}-{step:06d}.parquet"


def write_rollouts(run_dir: Path, step: int, rows: Sequence[RolloutRow], kind: Kind = "step") -> None:
    """Write the responses of one step, sorted by group and sample, all or nothing."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    parts = sorted({name for row in rows for name in row.parts})
    columns: dict[str, list[object]] = {name: [getattr(row, name) for row in rows] for name in COLUMNS}
    columns |= {name: [None if (x := getattr(row, name)) is None else storable(x) for row in rows] for name in TEXTS}
    columns |= {f"{PART}{name}": [row.parts.get(name) for row in rows] for name in parts}
    schema = schema_of(parts)
    columns |= {name: _lists(columns[name], schema.field(name).type) for name in LISTS}
    table = pa.table(columns, schema=schema.with_metadata({MARK: str(VERSION).encode()}))

    def write(path: Path) -> None:
        pq.write_table(table, path, compression="zstd", row_group_size=ROWS, use_dictionary=DICTIONARIES)

    atomic_write(rollout_path(run_dir, step, kind), write)


def _lists(rows: Sequence[Any], kind: pyarrow.ListType) -> pyarrow.ListArray:
    """One array of all rows' numbers: a tenth of the time that PyArrow takes for lists of lists."""
    import pyarrow as pa

    sizes = [len(row or ()) for row in rows]
    missing = pa.array([row is None for row in rows], pa.bool_())
    numbers = np.fromiter(chain.from_iterable(row or () for row in rows), kind.value_type.to_pandas_dtype(), sum(sizes))
    offsets = pa.array(np.cumsum([0, *sizes]), pa.int32())
    return pa.ListArray.from_arrays(offsets, pa.array(numbers), type=kind, mask=missing)


def schema_of(parts: Sequence[str]) -> pyarrow.Schema:
    """The columns and their types, with those of the named parts of a reward."""
    import pyarrow as pa

    types = {"int": pa.int64(), "float": pa.float64(), "bool": pa.bool_(), "str": pa.string()}
    types |= {"Sequence[int]": pa.list_(pa.int32()), "Sequence[float]": pa.list_(pa.float32())}
    return pa.schema(
        {name: types[kind] for name, kind in COLUMNS.items()} | {f"{PART}{n}": pa.float64() for n in parts}
    )


def read_rollouts(run_dir: Path, step: int, kind: Kind = "step") -> list[RolloutRow]:
    """The responses of one step; none where there is no whole file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(rollout_path(run_dir, step, kind)).read()
        parts = [name.removeprefix(PART) for name in table.column_names if name.startswith(PART)]
        needed = [table[name].null_count for name in COLUMNS if name not in NULLABLE]
        known = {status.value for status in Status}
        if any(needed) or not known.issuperset(table["status"].to_pylist()):
            return []
        table = table.select(schema_of(parts).names)
        if table.schema.types != schema_of(parts).types:
            return []
        return [_row(row) for row in table.to_pylist()]
    except (OSError, pa.ArrowException, KeyError, TypeError):  # missing, damaged, or of another version
        return []


def _row(columns: Row) -> RolloutRow:
    parts = {name.removeprefix(PART): value for name, value in columns.items() if name.startswith(PART)}
    return RolloutRow(**{name: value for name, value in columns.items() if name in COLUMNS}, parts=parts)


def read_verdicts(run_dir: Path, step: int) -> dict[tuple[int, int], tuple[str, Verdict]]:
    """(group, sample) -> (response, verdict) of a step that was logged before a crash, so as not to verify it again."""
    return {(row.group, row.sample): (row.response, row.verdict) for row in read_rollouts(run_dir, step)}


def read_evaluation(run_dir: Path, step: int) -> dict[tuple[int, int], RolloutRow]:
    """(prompt id, sample) -> response of the evaluation after a step; empty when there was none."""
    return {(row.prompt_id, row.sample): row for row in read_rollouts(run_dir, step, "eval")}
