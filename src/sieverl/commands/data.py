"""`sieverl data`: prepare a training file, list the sources that are known by name."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from sieverl.options import comma_separated, key_values, parse_value


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of `sieverl data`; those below `action` are of `prepare`."""

    action: str
    json: bool = False
    source: str = ""
    output: str = ""
    columns: str = ""
    split: str = "train"
    limit: int | None = None
    option: Sequence[str] = ()
    suffix: str | None = None
    system: str | None = None
    tokenizer: str | None = None
    max_prompt_tokens: int | None = None
    benchmarks: str = ""
    ngram: int = 13
    verifier: str = "auto"
    keep_duplicates: bool = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The subcommands and options of `sieverl data`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="prepare|list", help="what to do")
    known = actions.add_parser("list", help="the datasets and benchmarks that are known by name")
    known.add_argument("--json", action="store_true", help="print JSON instead of a table")
    prepare = actions.add_parser(
        "prepare",
        help="filter any source and write a Parquet file to train on",
        description="Read a source, drop what cannot be trained on (each row with its reason), write verl's schema.",
    )
    prepare.add_argument(
        "source",
        metavar="NAME|PATH|HUB-ID",
        help="gsm8k, math, ... (see `sieverl data list`), NAME@LOCAL-COPY, a file or directory, "
        "org/name[:config][@revision], reasoning_gym:TASK",
    )
    prepare.add_argument("--output", required=True, metavar="F.parquet", help="written all or nothing")
    prepare.add_argument("--columns", default="", metavar="prompt=A,answer=B", help="where they are not guessed right")
    prepare.add_argument("--split", default="train", help="default: train")
    prepare.add_argument("--limit", type=int, metavar="N", help="read the first N rows only")
    prepare.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="extract=boxed|gsm8k|after:MARKER|..., config=, revision=; of reasoning_gym: seed=, size=, the task's own",
    )
    prepare.add_argument("--suffix", help='put behind each question; "boxed" is the paper\'s')
    prepare.add_argument("--system", help='the system prompt; "boxed" is the paper\'s')
    prepare.add_argument("--tokenizer", metavar="DIR", help="counts the tokens for --max-prompt-tokens")
    prepare.add_argument("--max-prompt-tokens", type=int, metavar="N", help="drop longer prompts")
    prepare.add_argument(
        "--benchmarks",
        default="",
        metavar="B,B,...",
        help="drop prompts that stand in these: names, NAME@LOCAL-COPY, files, or all",
    )
    prepare.add_argument("--ngram", type=int, default=13, metavar="N", help="words in a row that count as the same")
    prepare.add_argument(
        "--verifier",
        default="auto",
        metavar="NAME",
        help="must accept each gold answer (default: math, or the task's own scorer; none: no check)",
    )
    prepare.add_argument("--keep-duplicates", action="store_true", help="keep prompts that occur more than once")
    prepare.add_argument("--json", action="store_true", help="print the counts as JSON instead of a table")


def run(options: Options) -> None:
    """Prepare a file, or list the known datasets."""
    {"prepare": _prepare, "list": _list}[options.action](options)


def _prepare(options: Options) -> None:
    from rich.table import Table

    from sieverl.data.chat import Template
    from sieverl.data.preparation import prepare
    from sieverl.display.terminal import Terminal

    given = key_values(options.option, "--option")
    gym = options.source.startswith("reasoning_gym:")
    report = prepare(
        options.source,
        options.output,
        columns=key_values(comma_separated(options.columns), "--columns"),
        split=options.split,
        limit=options.limit,
        options={key: parse_value(text) if gym else text for key, text in given.items()},
        template=Template(system=options.system, suffix=options.suffix),
        tokenizer=options.tokenizer,
        max_prompt_tokens=options.max_prompt_tokens,
        verifier=None if options.verifier == "none" else options.verifier,
        benchmarks=comma_separated(options.benchmarks),
        ngram=options.ngram,
        keep_duplicates=options.keep_duplicates,
    )
    if options.json:
        print(json.dumps(asdict(report), indent=2, default=str))
        return
    console = Terminal()
    console.print(report.source, soft_wrap=True, highlight=False)
    table = Table("rows", "")
    table.columns[0].justify = "right"
    table.add_row(f"{report.rows:,}", "read", end_section=True)
    for reason, count in report.dropped.items():
        table.add_row(f"{count:,}", reason)
    table.add_row(f"{report.kept:,}", "kept")
    console.print(table)
    if revision := report.origin.get("revision"):
        console.print(f"revision {revision} of {report.origin['hub']}", soft_wrap=True)
    console.print(f"wrote {report.output}", soft_wrap=True)
    if report.dropped_file:
        console.print(f"dropped rows, each with its reason: {report.dropped_file}", soft_wrap=True)


def _list(options: Options) -> None:
    from rich.table import Table

    from sieverl.data.catalog import SOURCES
    from sieverl.display.terminal import Terminal

    if options.json:
        print(json.dumps({name: asdict(source) for name, source in SOURCES.items()}, indent=2, default=str))
        return
    table = Table("name", "Hub dataset", "splits", "benchmark")
    for name, source in SOURCES.items():
        hub = f"{source.hub}:{source.config}" if source.config else source.hub
        table.add_row(name, hub, ", ".join(source.splits), source.evaluate or "")
    Terminal().print(table)
