"""Prepare a Parquet file to train on from any source: filtered, with counts of what was dropped, in verl's schema."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sieverl.data import filters
from sieverl.data.catalog import BENCHMARKS, SOURCES
from sieverl.data.chat import Template
from sieverl.data.locate import locate
from sieverl.data.rows import Dropped
from sieverl.data.source import Loaded, Origin, read
from sieverl.errors import DataError, UsageError, first_line
from sieverl.files import atomic_write, storing, user_path, write_text
from sieverl.run_dir.parts import Parts
from sieverl.text import storable
from sieverl.types import Prompt, Tokenizer, Verdict

if TYPE_CHECKING:
    from sieverl.verify.kept import Pairs

Filter = Callable[[list[Prompt]], filters.Sifted]
# columns of a source that are not repeated in `extra_info.columns`: verl's columns hold them, or they are the prompt
_WRITTEN = ("prompt", "messages", "answer", "data_source", "ability", "reward_model")


@dataclass(frozen=True)
class Report:
    """The number of rows in a source and of prompts kept, and how many rows were dropped for each reason."""

    source: str
    output: Path
    rows: int
    kept: int
    dropped: Mapping[str, int]
    dropped_file: Path | None
    origin: Origin


def prepare(  # the parameters are the options of `sieverl data prepare`, hence so many
    source: str,
    output: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    split: str = "train",
    limit: int | None = None,
    options: Mapping[str, object] | None = None,
    template: Template | None = None,
    tokenizer: str | None = None,
    max_prompt_tokens: int | None = None,
    verifier: str | Mapping[str, object] | None = "auto",
    benchmarks: Sequence[str] = (),
    ngram: int = 13,
    keep_duplicates: bool = False,
) -> Report:
    """Read `source` like `load_prompts`, filter it, and write `output` as Parquet in verl's schema, all or nothing.

    The suffix and the system prompt of `template` are written into the prompts. Dropped rows are written to
    `<output>.dropped.jsonl` with their reason. `tokenizer` (a directory or Hub id) and `max_prompt_tokens` go together;
    `benchmarks` are names of `BENCHMARKS`, local copies (`math500@FILE`) or files; `verifier`, which must accept each
    gold answer, is a name or a table as in a recipe, "auto" (math, or a task's own scorer) or None for no check. Raises
    DataError if no prompt is left, UsageError for options.
    """
    path = _checked_output(user_path(output), source)
    template = template or Template()
    filtering: list[Filter] = [_with_answer]
    if not keep_duplicates:
        filtering.append(filters.duplicates)
    if benchmarks:
        filtering.append(lambda prompts: filters.overlapping(prompts, load_benchmarks(benchmarks), ngram))
    if tokenizer is not None or max_prompt_tokens is not None:
        filtering.append(_length_filter(tokenizer, template, max_prompt_tokens))
    parts: list[Parts] = []
    if verifier is not None:
        filtering.append(_gold_filter(verifier, source, path, parts))
    loaded = read(source, columns=columns, split=split, limit=limit, options=options)
    prompts, dropped = _apply(filtering, loaded)
    with storing("the dropped rows", path.parent):
        dropped_file = _write_dropped(path.with_name(f"{path.name}.dropped.jsonl"), dropped)
    counts = dict(Counter(row.reason for row in dropped))
    if not prompts:
        reasons = ", ".join(f"{count} {reason}" for reason, count in counts.items())
        raise DataError(f"no row of {source} is left ({reasons}); the reason of each is in {dropped_file}")
    rows = [_verl_row(prompt, template, _data_source(source), split) for prompt in prompts]
    with storing("the prepared file", path.parent):
        _write(path, rows, {"origin": loaded.origin, "dropped": counts})
    for one in parts:
        one.remove()
    return Report(source, path, loaded.origin["rows"], len(prompts), counts, dropped_file, loaded.origin)


def _apply(filtering: Sequence[Filter], loaded: Loaded) -> tuple[list[Prompt], list[Dropped]]:
    """The prompts that pass every filter, and all rows that are dropped, in the order of the source."""
    prompts, dropped = loaded.prompts, list(loaded.dropped)
    for keep in filtering:
        prompts, more = keep(prompts)
        dropped += more
    return prompts, sorted(dropped, key=lambda row: row.id)


def load_benchmarks(sources: Sequence[str]) -> dict[str, list[Prompt]]:
    """The evaluation prompts of each source, by name; `all` means all of `BENCHMARKS`."""
    found = {}
    for source in (name for given in sources for name in (BENCHMARKS if given == "all" else [given])):
        name = source.partition("@")[0]
        spec = SOURCES.get(name)
        split = (spec.evaluate if spec else None) or "test"
        found[name if spec else source] = read(source, split=split).prompts
    return found


def _with_answer(prompts: Sequence[Prompt]) -> filters.Sifted:
    """Some reasoning-gym tasks have a scorer but no answer: good for training, but they cannot be written to a file."""
    return filters.sift(
        prompts, "no answer", lambda p: None if p.row.get("answer") else "the task has no gold answer, only a scorer"
    )


def _length_filter(tokenizer: str | None, template: Template, max_prompt_tokens: int | None) -> Filter:
    if tokenizer is None or max_prompt_tokens is None:
        raise UsageError("a tokenizer and the most tokens a prompt may have go together; give both or neither")
    return lambda prompts: filters.too_long(prompts, _load_tokenizer(tokenizer), template, max_prompt_tokens)


def _gold_filter(verifier: str | Mapping[str, object], source: str, output: Path, kept: list[Parts]) -> Filter:
    """Drops unverifiable prompts. Verdicts are kept beside the output until it is written; `kept` gets their parts."""
    if verifier == "auto":
        verifier = "reasoning_gym" if source.startswith("reasoning_gym:") else "math"
    spec = {"name": verifier} if isinstance(verifier, str) else verifier

    def keep_verifiable(prompts: list[Prompt]) -> filters.Sifted:
        from sieverl.verify.kept import chunk_keys, fingerprint, kept_verdicts
        from sieverl.verify.pool import Pool

        def verdicts(pairs: Pairs) -> Sequence[Verdict]:
            parts = Parts.of(output, chunk_keys(pairs, fingerprint(spec)), partial(print, file=sys.stderr))
            kept.append(parts)
            return kept_verdicts(pool.verdicts, pairs, parts)

        with Pool(spec) as pool:
            return filters.unverifiable(prompts, verdicts, pool.verifier.gold)

    return keep_verifiable


def _load_tokenizer(name: str) -> Tokenizer:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"no tokenizer can be loaded from {name!r} ({first_line(error)}); give a directory that has one"
        ) from error


def _verl_row(prompt: Prompt, template: Template, data_source: str, split: str) -> dict[str, object]:
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
    """The column by which verl chooses its reward function: the Hub id, the file's name or reasoning_gym/TASK."""
    ref = locate(source, {})
    return ref.spec.hub or ref.hub or (ref.path.stem if ref.path else source.replace(":", "/", 1))


def _checked_output(path: Path, source: str) -> Path:
    if path.suffix.lower() != ".parquet":
        raise UsageError(f"the output is {path}; it must end with .parquet")
    if path.exists() and str(path.resolve()) == str(user_path(source.rpartition("@")[2]).resolve()):
        raise UsageError(f"the output {path} is the source itself; give another name")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise UsageError(f"cannot write to the directory {path.parent}; make it, or give another output")
    return path


def _storable(value: Any) -> Any:
    """The same with no half character, in a split or a system prompt of a command line in another encoding, say."""
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, dict):
        return {key: _storable(inner) for key, inner in value.items()}
    return [_storable(inner) for inner in value] if isinstance(value, list) else value


def _write(path: Path, rows: list[dict[str, object]], about: Mapping[str, object]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    chat = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
    rule = pa.struct([("style", pa.string()), ("ground_truth", pa.string())])
    extra = pa.struct([("split", pa.string()), ("index", pa.int64()), ("columns", pa.string())])
    fields = {"data_source": pa.string(), "prompt": chat, "ability": pa.string(), "reward_model": rule}
    schema = pa.schema({**fields, "extra_info": extra}, metadata={"sieverl": json.dumps(about, default=str)})
    table = pa.Table.from_pylist([_storable(row) for row in rows], schema)
    atomic_write(path, lambda temporary: pq.write_table(table, temporary, compression="zstd"))


def _write_dropped(path: Path, dropped: Sequence[Dropped]) -> Path | None:
    if not dropped:
        path.unlink(missing_ok=True)  # of an earlier run
        return None
    write_text(path, "".join(json.dumps(vars(row), default=str, ensure_ascii=False) + "\n" for row in dropped))
    return path
