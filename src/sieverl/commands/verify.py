"""`sieverl verify`: a file of responses gets rewards and statuses."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sieverl.data.local import read_path
from sieverl.errors import DataError, UsageError, nearest
from sieverl.files import atomic_write, storing
from sieverl.options import comma_separated, key_values, parse_value
from sieverl.run_dir.parts import Parts
from sieverl.types import JsonObject, Row, Status, Verdict, VerifierSpec
from sieverl.verify.kept import chunk_keys, fingerprint, kept_verdicts
from sieverl.verify.pool import Pool
from sieverl.verify.verifier import stop_if_all_failed

Show = Callable[[Sequence[Verdict], Mapping[str, int], Path], None]


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of `sieverl verify`."""

    verifier: str
    input: str
    output: str
    option: Sequence[str]
    gold: str | None
    response: str
    workers: int
    timeout: float
    memory_mb: int
    network: bool
    environment: str
    json: bool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `sieverl verify`."""
    add = parser.add_argument
    add("--verifier", default="math", metavar="NAME", help="as verify.name of a recipe; default: math")
    add("--input", required=True, metavar="F.jsonl", help="rows with `gold` and `response`")
    add("--output", required=True, metavar="G.jsonl", help="the rows with `reward` and `status`")
    add("--option", action="append", default=[], metavar="KEY=VALUE", help="option of the verifier")
    add("--gold", metavar="COLUMN", help="column of the gold answers, or COLUMN.FIELD; default: gold, else answer")
    add("--response", default="response", metavar="COLUMN", help="column of the responses; default: response")
    add("--workers", type=int, default=2, metavar="N", help="worker processes; default: 2")
    add("--timeout", type=float, default=5.0, metavar="SECONDS", help="for a response; default: 5")
    add("--memory-mb", type=int, default=1024, metavar="MIB", help="for a response; default: 1024")
    add("--network", action="store_true", help="the verifier may use the network")
    add("--environment", default="", metavar="NAME,NAME", help="environment variables that the verifier sees, too")
    add("--json", action="store_true", help="print the counts as JSON instead of a table")


def run(options: Options) -> None:
    """Score the file."""
    given = key_values(options.option, "--option")
    verify_file(
        {"name": options.verifier, **{key: parse_value(text) for key, text in given.items()}},
        options.input,
        options.output,
        (options.gold or "", options.response),
        workers=options.workers,
        timeout_s=options.timeout,
        memory_mb=options.memory_mb,
        network=options.network,
        environment=comma_separated(options.environment),
        show=as_json if options.json else report,
    )


def verify_file(
    verifier: VerifierSpec,
    input: str | Path,
    output: str | Path,
    columns: tuple[str, str] = ("", "response"),
    workers: int = 2,
    timeout_s: float = 5.0,
    memory_mb: int = 1024,
    network: bool = False,
    environment: Sequence[str] = (),
    show: Show | None = None,
) -> Counter[Status]:
    """Score the rows of a JSONL or Parquet file and write them, in order, with the columns `reward` and `status`.

    `columns` names those of the gold answer (empty: gold, else answer) and of the response; `a.b` is the field `b` of
    the column `a`. `workers` and what follows are those of `Pool`. The output is written completely or not at all, as
    Parquet if its name ends in .parquet; until then the verdicts so far are kept beside it, and the same call goes on
    from them.
    Returns the counts per status, which `show` prints (by default as a table). Raises a DataError with file and line
    for a row that cannot be used, and an Alarm, after writing, if every row is an error.
    """
    source, target = Path(input), Path(output)
    if target.is_dir() or not target.parent.is_dir():
        raise UsageError(f"Cannot write {target}: give the name of a file in a directory that exists.")
    rows = read(source)
    gold = columns[0] or ("answer" if "gold" not in rows[0][1] and "answer" in rows[0][1] else "gold")
    pairs = [pair(row, gold, columns[1], where) for where, row in rows]
    keys = chunk_keys(pairs, fingerprint(verifier), timeout_s, memory_mb, network, environment)
    parts = Parts.of(target, keys, partial(print, file=sys.stderr))
    with Pool(verifier, workers, timeout_s, memory_mb, network, environment) as pool:
        verdicts = kept_verdicts(pool.verdicts, pairs, parts)
        reasons = pool.reasons
    scored = [{**row, "reward": v.reward, "status": v.status.value} for (_, row), v in zip(rows, verdicts, strict=True)]
    with storing("the scored rows", target.parent):
        atomic_write(target, lambda path: write(path, scored, parquet=target.suffix == ".parquet"))
    parts.remove()
    (show or report)(verdicts, reasons, target)
    stop_if_all_failed([verdict.status for verdict in verdicts], reasons)
    return Counter(verdict.status for verdict in verdicts)


def read(source: Path) -> list[tuple[str, JsonObject]]:
    """The rows of a file, each with the place it stands at (`file:line`)."""
    rows = []
    for raw in read_path(source, "test"):
        if raw.row is None:
            raise DataError(
                f'{raw.where}: {raw.problem}; each line is one row such as {{"gold": "4", "response": "..."}}'
            )
        rows.append((raw.where, raw.row))
    if not rows:
        raise DataError(f"{source} has no rows")
    return rows


def pair(row: Row, gold: str, response: str, where: str) -> tuple[str, JsonObject]:
    """The response of a row, and the row with its gold as `answer`."""
    text, answer = field(row, response, where, "--response"), field(row, gold, where, "--gold")
    if not isinstance(text, str):
        raise DataError(f"{where}: the column {response!r} is a {type(text).__name__}; a response is text.")
    if answer is None or answer == "" or answer == []:
        raise DataError(f"{where}: the column {gold!r} is empty; a row needs its gold answer.")
    return text, {**row, "answer": answer}


def field(row: Row, path: str, where: str, option: str) -> object:
    """A column, or a field of one (`column.field`)."""
    value: object = row
    for name in [path] if path in row else path.split("."):
        if not isinstance(value, Mapping) or name not in value:
            names = list(value) if isinstance(value, Mapping) else []
            has = f"it has {', '.join(map(str, names))}" if names else "it has no fields"
            raise DataError(
                f"{where} has no column {path!r}; {has}. Name the right one with {option}.{nearest(name, names)}"
            )
        value = value[name]
    return value


def write(path: Path, rows: Sequence[Row], parquet: bool) -> None:
    """The scored rows as JSONL or Parquet."""
    if parquet:
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        return
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, default=str) + "\n" for row in rows)


def report(verdicts: Sequence[Verdict], reasons: Mapping[str, int], target: Path) -> None:
    """One table: how many responses have each status, and what errors said."""
    from rich.table import Table

    from sieverl.display.terminal import Terminal

    counts = Counter(verdict.status for verdict in verdicts)
    mean = sum(verdict.reward for verdict in verdicts) / max(1, len(verdicts))
    table = Table("status", "responses", "share", title=f"{len(verdicts)} responses, mean reward {mean:.4f}")
    for status in Status:
        if counts[status]:
            table.add_row(status.value, f"{counts[status]}", f"{counts[status] / len(verdicts):.1%}")
    console = Terminal()
    console.print(table)
    for reason, count in Counter(reasons).most_common(3):
        console.print(f"{count} x {reason}", highlight=False)
    console.print(f"written to {target}", highlight=False, soft_wrap=True)


def as_json(verdicts: Sequence[Verdict], reasons: Mapping[str, int], target: Path) -> None:
    """The same as `report`, as JSON."""
    counts = Counter(verdict.status for verdict in verdicts)
    about = {
        "responses": len(verdicts),
        "reward_mean": sum(verdict.reward for verdict in verdicts) / max(1, len(verdicts)),
        "statuses": {status.value: counts[status] for status in Status},
        "reasons": dict(reasons),
        "output": str(target),
    }
    print(json.dumps(about, indent=2))
