"""`sieverl data`: prepare a training file, list the sources that are known by name."""

from __future__ import annotations

import argparse
import json
from typing import Any

from sieverl.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The subcommands and options of `sieverl data`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="prepare|list")
    actions.add_parser("list", help="the datasets and benchmarks that are known by name")
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


def run(args: argparse.Namespace) -> None:
    """Does what the parsed arguments say and prints what came of it."""
    {"prepare": _prepare, "list": _list}[args.action](args)


def pairs(items: list[str], what: str) -> dict[str, str]:
    """`a=b` texts as a dict.

    >>> pairs(["prompt=problem", "answer=final"], "--columns")
    {'prompt': 'problem', 'answer': 'final'}
    """
    if wrong := [item for item in items if "=" not in item]:
        raise UsageError(f"{what} has {wrong[0]!r}; it takes KEY=VALUE")
    return dict(item.split("=", 1) for item in items)


def value(text: str) -> Any:
    """A number, boolean, list or null as JSON has it, and any other text as it is.

    >>> value("3"), value("true"), value("metadata.expression"), value("0012")
    (3, True, 'metadata.expression', '0012')
    """
    try:
        return json.loads(text)
    except ValueError:
        return text


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _prepare(args: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.table import Table

    from sieverl.data.chat import Template
    from sieverl.data.pipeline import prepare

    options = pairs(args.option, "--option")
    gym = args.source.startswith("reasoning_gym:")
    report = prepare(
        args.source,
        args.output,
        columns=pairs(_split(args.columns), "--columns"),
        split=args.split,
        limit=args.limit,
        options={key: value(text) if gym else text for key, text in options.items()},
        template=Template(system=args.system, suffix=args.suffix),
        tokenizer=args.tokenizer,
        max_prompt_tokens=args.max_prompt_tokens,
        verifier=None if args.verifier == "none" else args.verifier,
        benchmarks=_split(args.benchmarks),
        ngram=args.ngram,
        keep_duplicates=args.keep_duplicates,
    )
    console = Console()
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


def _list(args: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.table import Table

    from sieverl.data.registry import SOURCES

    table = Table("name", "Hub dataset", "splits", "benchmark")
    for name, source in SOURCES.items():
        hub = f"{source.hub}:{source.config}" if source.config else source.hub
        table.add_row(name, hub, ", ".join(source.splits), source.evaluate or "")
    Console().print(table)
