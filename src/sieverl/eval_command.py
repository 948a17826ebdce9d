"""`sieverl eval`: measure a model on benchmarks, write the numbers and all they depend on; or compare two results."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sieverl import families
from sieverl.data.command import pairs, value
from sieverl.errors import UsageError
from sieverl.types import Prompt

if TYPE_CHECKING:
    from rich.console import Console

    from sieverl.gather import Source
    from sieverl.model import Policy

MAX_TOKENS = 2048
VERIFIERS: Mapping[str, Mapping[str, Any]] = {"math": {"rules": "lenient"}}  # options in evaluation


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `sieverl eval`."""
    add = parser.add_argument
    add("--model", metavar="M", help="model directory, run, checkpoint or Hub id; `base` is the shipped model")
    add(
        "--benchmark",
        metavar="B,B,...",
        help="math500, minerva, olympiad, aime24, aime25, amc23, gsm8k, ... (`sieverl data list`), NAME@LOCAL-COPY, "
        "a file, org/name, reasoning_gym:TASK, or demo (the held-out prompts of `sieverl demo`)",
    )
    add("-k", type=int, metavar="N", help="responses a prompt (default: 4; with --greedy 1)")
    add("--temperature", type=float, help="default: 1.0")
    add("--greedy", action="store_true", help="the most likely token each time, one response a prompt")
    add("--top-p", type=float, default=1.0, metavar="P")
    add("--top-k", type=int, default=0, metavar="N")
    add("--max-tokens", type=int, metavar="N", help=f"longest response (default: {MAX_TOKENS}; demo: as in training)")
    add("--limit", type=int, metavar="N", help="the first N prompts only")
    add("--template", choices=("auto", "chat", "plain"), default="auto", help="default: chat where the model has one")
    add("--system", metavar="TEXT", help='the system prompt; "boxed" is the paper\'s')
    add("--suffix", metavar="TEXT", help='put behind each question; "boxed" is the paper\'s')
    add("--seed", type=int, default=0, help="default: 0")
    add("--dtype", choices=("float32", "bfloat16", "float64"), default="float32", help="default: float32")
    add("--max-rows", type=int, default=256, metavar="N", help="responses decoded at a time (default: 256)")
    add("--verifier", metavar="NAME", help="default: math with lenient rules, or the task's own scorer")
    add("--option", action="append", default=[], metavar="KEY=VALUE", help="option of the verifier")
    add("--columns", default="", metavar="prompt=A,answer=B", help="where they are not guessed right")
    add("--split", default="test", help="of a source that is no known benchmark (default: test)")
    add("--source-option", action="append", default=[], metavar="KEY=VALUE", help="option of the source or task")
    add("--output", metavar="F.json", help="result file; a directory where there are several benchmarks")
    add("--compare", nargs=2, metavar=("A.json", "B.json"), help="the difference of two results, paired by prompt")


@dataclass(frozen=True)
class Task:
    """A benchmark as it is to be measured: its prompts, where they came from, how they are put and verified."""

    name: str
    prompts: Sequence[Prompt]
    verifier: Mapping[str, Any]
    max_tokens: int
    origin: Mapping[str, Any] = field(default_factory=dict)
    dropped: Sequence[str] = ()


def run(args: argparse.Namespace) -> None:
    """Does what the parsed arguments say: compares two results, or measures and writes them."""
    from rich.console import Console

    console = Console(soft_wrap=True, highlight=False)
    if args.compare:
        from sieverl.results import compare

        compare(Path(args.compare[0]), Path(args.compare[1]), console)
        return
    if not args.model or not args.benchmark:
        raise UsageError("sieverl eval takes --model M and --benchmark B,B,... (or --compare A.json B.json)")
    samples, temperature = drawing(args)
    tasks = [task(name.strip(), args) for name in args.benchmark.split(",") if name.strip()]
    from sieverl.loading import find_model

    path, run_dir = find_model(args.model)
    outputs = targets(args.output, [one.name for one in tasks], Path(path) if run_dir else None, run_dir)
    evaluate(args, tasks, path, outputs, samples, temperature, console)


def drawing(args: argparse.Namespace) -> tuple[int, float]:
    """How many responses a prompt gets and at which temperature; greedy only when it is asked for."""
    samples = args.k if args.k is not None else 1 if args.greedy else 4
    if samples < 1:
        raise UsageError(f"-k is {samples}; it must be at least 1 response a prompt")
    if args.max_rows < 1 or (args.max_tokens is not None and args.max_tokens < 1):
        raise UsageError(f"--max-tokens is {args.max_tokens}, --max-rows {args.max_rows}; each must be at least 1")
    if args.greedy and samples != 1:
        raise UsageError(f"-k is {samples}, but --greedy gives {samples} times the same response; use -k 1")
    if args.greedy and (args.temperature is not None or args.top_p != 1.0 or args.top_k):
        raise UsageError("--greedy takes no --temperature, --top-p or --top-k: it is the most likely token each time")
    temperature = 0.0 if args.greedy else 1.0 if args.temperature is None else args.temperature
    if not args.greedy and not temperature > 0:
        raise UsageError(f"--temperature is {temperature:g}; it must be above 0 (--greedy is the most likely token)")
    if not 0 < args.top_p <= 1 or args.top_k < 0:
        raise UsageError(f"--top-p is {args.top_p:g}, --top-k {args.top_k}; allowed: above 0 to 1, and 0 (off) or more")
    return samples, temperature


# --- benchmarks -------------------------------------------------------------------------------------


def task(source: str, args: argparse.Namespace) -> Task:
    """A benchmark by name, file, Hub id or reasoning-gym task, read and checked."""
    from sieverl.data.registry import SOURCES
    from sieverl.data.source import locate, read
    from sieverl.verify import describe

    given = pairs(args.source_option, "--source-option")
    columns = pairs([part for part in args.columns.split(",") if part], "--columns")
    split, limit, max_tokens = args.split, args.limit, args.max_tokens or MAX_TOKENS
    if source == "demo":
        from sieverl.demo import RECIPE
        from sieverl.recipe import load

        recipe = load(RECIPE)
        held = recipe.evaluate
        name, default, max_tokens = source, recipe.verify.spec, args.max_tokens or recipe.rollout.max_tokens
        source, split, limit = held.source, held.split, limit or held.limit
        columns = {**held.columns, **columns}
        options = held.options | {key: value(text) for key, text in given.items()}
    else:
        gym = source.startswith("reasoning_gym:")
        options = {key: value(text) if gym else text for key, text in given.items()}
        place = locate(source, options)
        known = SOURCES.get(place.name or "")
        split = (known.evaluate if known else None) or split
        name = place.name or place.task or (place.path.stem if place.path else str(place.hub).rpartition("/")[2])
        default = {"name": "reasoning_gym"} if gym else {"name": "math", **VERIFIERS["math"]}
    spec = verifier(args, default)
    describe(spec)
    loaded = read(source, columns=columns, split=split, limit=limit, options=options)
    dropped = [f"{row.where}: {row.detail}" for row in loaded.dropped]
    return Task(name, loaded.prompts, spec, max_tokens, loaded.origin, dropped)


def verifier(args: argparse.Namespace, default: Mapping[str, Any]) -> dict[str, Any]:
    """The verifier's specification: the one asked for or the default, with the options on top."""
    from sieverl.recipe import parse

    spec = dict(default)
    if args.verifier not in (None, default["name"]):
        spec = {"name": args.verifier, **VERIFIERS.get(args.verifier, {})}
    return spec | {key: parse(text) for key, text in pairs(args.option, "--option").items()}


def targets(output: str | None, names: Sequence[str], checkpoint: Path | None, run_dir: Path | None) -> list[Path]:
    """The result file of each benchmark. Without --output it is in the run (or here) and replaces no older one."""
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(
            f"two benchmarks are called {twice}; evaluate them one after the other, each with its --output"
        )
    given = Path(output).expanduser() if output else None
    if given and given.suffix == ".json" and not given.is_dir():
        if len(names) > 1:
            raise UsageError(f"--output {output} is one file for {len(names)} benchmarks; give a directory")
        files = [given]
    else:
        folder = given or run_dir or Path()
        suffix = f"-{checkpoint.name}" if checkpoint else ""
        files = [_free(folder / f"eval-{name}{suffix}.json") for name in names]
    parent = files[0].absolute().parent
    while not parent.exists():
        parent = parent.parent
    try:
        tempfile.TemporaryFile(dir=parent).close()
    except OSError as error:
        raise UsageError(f"cannot write {files[0]}: {error.strerror}; choose another --output") from error
    return files


def _free(path: Path) -> Path:
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.stem}.{number}.json")
    return free


# --- measuring --------------------------------------------------------------------------------------


def evaluate(
    args: argparse.Namespace,
    tasks: Sequence[Task],
    path: str,
    outputs: Sequence[Path],
    samples: int,
    temperature: float,
    console: Console,
) -> None:
    """Measure one benchmark after the other; each result is written as soon as it is there."""
    from sieverl.data import Template, render
    from sieverl.data.chat import has_chat_template
    from sieverl.gather import Source
    from sieverl.loading import load_for_use, weights_hash
    from sieverl.model_files import check_ids, stop_ids
    from sieverl.results import overview, sha256, show, versions, write
    from sieverl.rollout.protocol import Sampling
    from sieverl.rollout.torch_engine import TorchEngine
    from sieverl.verify import Pool

    policy = load_for_use(path, args.dtype)
    tokenizer, engine = policy.tokenizer, TorchEngine(policy, args.max_rows)
    chat = args.template == "chat" or (args.template == "auto" and has_chat_template(tokenizer))
    template = Template("chat" if chat else "plain", args.system, args.suffix)
    tokens = [[render(tokenizer, prompt, template) for prompt in one.prompts] for one in tasks]
    for one, rendered in zip(tasks, tokens, strict=True):
        check_context(policy, one, rendered)
        check_ids(policy.causal, tokenizer, rendered)
    console.print(f"{policy.causal.config.model_type}: {engine.ways}", style="dim")
    model = {
        "name": args.model,
        "path": path,
        "revision": getattr(policy.causal.config, "_commit_hash", None),
        "sha256": weights_hash(policy.model),
        "parameters": policy.causal.num_parameters(),
        "dtype": args.dtype,
    }
    chosen = {"template": template.style, "system": args.system, "suffix": args.suffix}
    chosen["chat_template_sha256"] = sha256(tokenizer.chat_template) if chat else None
    results = []
    for one, rendered, output in zip(tasks, tokens, outputs, strict=True):
        sampling = Sampling(one.max_tokens, stop_ids(policy.causal, tokenizer), temperature, args.top_p, args.top_k)
        drawn = asdict(sampling) | {"k": samples, "greedy": args.greedy, "seed": args.seed}
        with Pool(one.verifier) as pool:
            source = Source(one.prompts, rendered, engine, pool, tokenizer, sampling, args.seed)
            result = measured(one, source, samples, console)
        result |= {"model": model, "sampling": drawn, "versions": versions()}
        result["prompt"] = chosen | {"example": tokenizer.decode(rendered[0])}
        write(output, result)
        results.append(result)
        show(result, output, console)
    if len(results) > 1:
        overview(results, console)


def check_context(policy: Policy, one: Task, tokens: Sequence[Sequence[int]]) -> None:
    """A UsageError with the arithmetic when the longest prompt and response exceed the model's positions."""
    limit, why = families.longest(policy.causal.config)
    longest, where = max((len(ids), i) for i, ids in enumerate(tokens))
    if not limit or longest + one.max_tokens <= limit:
        return
    room = limit - longest
    advice = f"use --max-tokens {room} or less" if room > 0 else "it needs a model with a longer context, or a --limit"
    raise UsageError(
        f"{one.name}: prompt {one.prompts[where].id} has {longest:,} tokens and --max-tokens is {one.max_tokens:,}: "
        f"together {longest + one.max_tokens:,}, but the model takes {limit:,} ({why}); {advice}"
    )


def measured(one: Task, source: Source, samples: int, console: Console) -> dict[str, Any]:
    """What is measured of one benchmark, with a bar while it goes on."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from sieverl.benchmark import measure, reader, summarise, watched
    from sieverl.results import row_of
    from sieverl.verify import check_gold

    total = len(one.prompts) * samples
    console.print(f"{one.name}: {len(one.prompts)} prompts x {samples} responses of up to {one.max_tokens} tokens")
    if one.dropped:
        console.print(f"{len(one.dropped)} rows cannot be used, the first: {one.dropped[0]}", style="yellow")
    unverifiable = check_gold(source.pool, one.verifier, [prompt.row for prompt in one.prompts])
    if unverifiable:
        answer = str(unverifiable[0][0].get("answer"))[:80]
        console.print(
            f"{len(unverifiable)} gold answers do not verify, so no response to them can be right; "
            f"the first: {answer!r}",
            style="yellow",
            markup=False,
        )
    columns = (TextColumn("responses"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    started = time.perf_counter()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task(one.name, total=total)
        records, _ = measure(watched(source, lambda: progress.advance(bar)), samples, reader(one.verifier))
    seconds = time.perf_counter() - started
    summary = summarise(records)
    drawn = sum(sum(record.lengths) for record in records)
    console.print(f"{drawn:,} tokens in {seconds:.1f} s, {drawn / seconds:,.0f} a second", style="dim")
    rows = [row_of(one.prompts[record.prompt], record) for record in records]
    benchmark = {"name": one.name, "prompts": len(rows), "dropped": len(one.dropped), "origin": dict(one.origin)}
    return {
        "benchmark": benchmark | {"gold_unverifiable": len(unverifiable)},
        "verifier": dict(one.verifier),
        "scores": {name: dict(zip(("value", "low", "high"), s, strict=True)) for name, s in summary.scores.items()},
        "shares": dict(summary.shares),
        "rows": rows,
    }
