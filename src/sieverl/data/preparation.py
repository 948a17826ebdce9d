"""From any source to a Parquet file that is ready to train on: filtered, counted, in the schema of verl."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sieverl.data import filters
from sieverl.data.catalog import BENCHMARKS, SOURCES
from sieverl.data.chat import Template
from sieverl.data.locate import locate
from sieverl.data.rows import Dropped
from sieverl.data.source import read
from sieverl.errors import DataError, UsageError
from sieverl.files import atomic_write, write_text
from sieverl.types import Prompt

# What verl's columns say already, or what would only repeat the prompt.
_WRITTEN = ("prompt", "messages", "answer", "data_source", "ability", "reward_model")


@dataclass(frozen=True)
class Report:
    """What became of a source's rows: how many there were, how many are kept, and how many each filter dropped."""

    source: str
    output: Path
    rows: int
    kept: int
    dropped: Mapping[str, int]
    dropped_file: Path | None
    origin: Mapping[str, Any]


def prepare(
    source: str,
    output: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    split: str = "train",
    limit: int | None = None,
    options: Mapping[str, Any] | None = None,
    template: Template | None = None,
    tokenizer: str | None = None,
    max_prompt_tokens: int | None = None,
    verifier: str | Mapping[str, Any] | None = "auto",
    benchmarks: Sequence[str] = (),
    ngram: int = 13,
    keep_duplicates: bool = False,
) -> Report:
    """Reads `source` as `load_prompts` does, filters it, and writes `output` in verl's Parquet schema, all or nothing.

    The suffix and the system prompt of `template` are written into the prompts. Rows that are dropped go to
    `<output>.dropped.jsonl` with their reason. `tokenizer` (a directory or Hub id) and `max_prompt_tokens` go together;
    `benchmarks` are names of `BENCHMARKS`, local copies (`math500@FILE`) or files; `verifier` is a name or a table as
    in a recipe, "auto" (math, or a task's own scorer) or None for no check of the gold answers. Raises DataError when
    nothing is left, UsageError for options.
    """
    path = _output(Path(output).expanduser(), source)
    if (tokenizer is None) != (max_prompt_tokens is None):
        raise UsageError("a tokenizer and the most tokens a prompt may have go together; give both or neither")
    template = template or Template()
    loaded = read(source, columns=columns, split=split, limit=limit, options=options)
    prompts, dropped = _answered(loaded.prompts)
    dropped += loaded.dropped
    if not keep_duplicates:
        prompts, more = filters.duplicates(prompts)
        dropped += more
    if benchmarks:
        prompts, more = filters.overlapping(prompts, load_benchmarks(benchmarks), ngram)
        dropped += more
    if tokenizer is not None and max_prompt_tokens is not None:
        prompts, more = filters.too_long(prompts, _tokenizer(tokenizer), template, max_prompt_tokens)
        dropped += more
    if verifier is not None:
        if verifier == "auto":
            verifier = "reasoning_gym" if source.startswith("reasoning_gym:") else "math"
        prompts, more = _verifiable(prompts, {"name": verifier} if isinstance(verifier, str) else verifier)
        dropped += more
    dropped_file = _write_dropped(path.with_name(f"{path.name}.dropped.jsonl"), dropped)
    counts = dict(Counter(row.reason for row in sorted(dropped, key=lambda row: row.id)))
    if not prompts:
        told = ", ".join(f"{count} {reason}" for reason, count in counts.items())
        raise DataError(f"no row of {source} is left ({told}); the reason of each is in {dropped_file}")
    origin, data_source = loaded.origin, _data_source(source)
    _write(
        path, [_row(prompt, template, data_source, split) for prompt in prompts], {"origin": origin, "dropped": counts}
    )
    return Report(source, path, int(origin["rows"]), len(prompts), counts, dropped_file, origin)


def load_benchmarks(sources: Sequence[str]) -> dict[str, list[Prompt]]:
    """The evaluation prompts of each source by name; `all` stands for every one of `BENCHMARKS`."""
    found = {}
    for source in (name for given in sources for name in (BENCHMARKS if given == "all" else [given])):
        name = source.partition("@")[0]
        known = SOURCES.get(name)
        split = (known.evaluate if known else None) or "test"
        found[name if known else source] = read(source, split=split).prompts
    return found


def _answered(prompts: Sequence[Prompt]) -> filters.Sifted:
    """Some reasoning-gym tasks have a scorer and no answer: they can be trained on, but not written to a file."""
    return filters.sift(
        prompts, "no answer", lambda p: None if p.row.get("answer") else "the task has no gold answer, only a scorer"
    )


def _verifiable(prompts: Sequence[Prompt], spec: Mapping[str, Any]) -> filters.Sifted:
    from sieverl.verify.pool import Pool

    with Pool(spec) as pool:
        return filters.unverifiable(prompts, pool.verdicts, pool.verifier.gold)


def _tokenizer(name: str) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().split("\n", 1)[0][:200]
        raise DataError(
            f"no tokenizer can be loaded from {name!r} ({reason}); give a directory that has one"
        ) from error


def _row(prompt: Prompt, template: Template, data_source: str, split: str) -> dict[str, Any]:
    row = prompt.row
    rest = {key: value for key, value in row.items() if key not in _WRITTEN}
    return {
        "data_source": row["data_source"] if isinstance(row.get("data_source"), str) else data_source,
        "prompt": template.messages(prompt),
        "ability": row["ability"] if isinstance(row.get("ability"), str) else "math",
        "reward_model": {"style": "rule", "ground_truth": str(row["answer"])},
        "extra_info": {"split": split, "index": prompt.id, "columns": json.dumps(rest, default=str)},
    }


def _data_source(source: str) -> str:
    """What verl chooses its reward function by: the Hub id, the file's name, reasoning_gym/TASK."""
    place = locate(source, {})
    return place.known.hub or place.hub or (place.path.stem if place.path else source.replace(":", "/", 1))


def _output(path: Path, source: str) -> Path:
    if path.suffix.lower() != ".parquet":
        raise UsageError(f"the output is {path}; it must end with .parquet")
    if path.exists() and str(path.resolve()) == str(Path(source.rpartition("@")[2]).expanduser().resolve()):
        raise UsageError(f"the output {path} is the source itself; give another name")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise UsageError(f"cannot write to the directory {path.parent}; make it, or give another output")
    return path


def _write(path: Path, rows: list[dict[str, Any]], about: Mapping[str, Any]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    chat = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
    rule = pa.struct([("style", pa.string()), ("ground_truth", pa.string())])
    extra = pa.struct([("split", pa.string()), ("index", pa.int64()), ("columns", pa.string())])
    fields = {"data_source": pa.string(), "prompt": chat, "ability": pa.string(), "reward_model": rule}
    schema = pa.schema({**fields, "extra_info": extra}, metadata={"sieverl": json.dumps(about, default=str)})
    table = pa.Table.from_pylist(rows, schema)
    atomic_write(path, lambda temporary: pq.write_table(table, temporary, compression="zstd"))


def _write_dropped(path: Path, dropped: Sequence[Dropped]) -> Path | None:
    if not dropped:
        path.unlink(missing_ok=True)  # of an earlier run
        return None
    rows = sorted(dropped, key=lambda row: row.id)
    write_text(path, "".join(json.dumps(vars(row), default=str, ensure_ascii=False) + "\n" for row in rows))
    return path
