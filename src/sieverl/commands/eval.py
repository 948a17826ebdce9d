"""`sieverl eval`: measure a model on benchmarks, write the numbers and all they depend on; or compare two results."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sieverl.data.chat import Style
from sieverl.errors import UsageError
from sieverl.evaluation.tasks import MAX_TOKENS, Task, TaskOptions, find_task
from sieverl.files import check_writable
from sieverl.options import comma_separated, key_values

if TYPE_CHECKING:
    from rich.console import Console

    from sieverl.model.policy import Policy
    from sieverl.rollout.environment import Environment, PromptSet


ABOUT = "measure a model on benchmarks (avg@k, pass@k, maj@k), or compare two results"


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of `sieverl eval`; the help of each says what it is."""

    model: str | None
    benchmark: str | None
    k: int | None
    temperature: float | None
    greedy: bool
    top_p: float
    top_k: int
    max_tokens: int | None
    limit: int | None
    template: Style
    system: str | None
    suffix: str | None
    seed: int
    dtype: str
    max_num_seqs: int
    verifier: str | None
    option: Sequence[str]
    columns: str
    split: str
    source_option: Sequence[str]
    output: str | None
    compare: Sequence[str] | None

    @property
    def task(self) -> TaskOptions:
        """What is asked of every benchmark."""
        return TaskOptions(
            columns=key_values(comma_separated(self.columns), "--columns"),
            split=self.split,
            limit=self.limit,
            max_tokens=self.max_tokens,
            source_options=key_values(self.source_option, "--source-option"),
            verifier=self.verifier,
            verifier_options=key_values(self.option, "--option"),
        )


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
    add("--max-num-seqs", type=int, default=256, metavar="N", help="responses decoded at a time (default: 256)")
    add("--verifier", metavar="NAME", help="default: math with lenient rules, or the task's own scorer")
    add("--option", action="append", default=[], metavar="KEY=VALUE", help="option of the verifier")
    add("--columns", default="", metavar="prompt=A,answer=B", help="where they are not guessed right")
    add("--split", default="test", help="of a source that is no known benchmark (default: test)")
    add("--source-option", action="append", default=[], metavar="KEY=VALUE", help="option of the source or task")
    add("--output", metavar="F.json", help="result file; a directory where there are several benchmarks")
    add("--compare", nargs=2, metavar=("A.json", "B.json"), help="the difference of two results, paired by prompt")


def run(options: Options) -> None:
    """Compare two results, or measure a model on benchmarks and write what was measured."""
    from rich.console import Console

    console = Console(soft_wrap=True, highlight=False)
    if options.compare:
        from sieverl.display.tables import compare

        compare(Path(options.compare[0]), Path(options.compare[1]), console)
        return
    if not options.model or not options.benchmark:
        raise UsageError("sieverl eval takes --model M and --benchmark B,B,... (or --compare A.json B.json)")
    samples, temperature = drawing(options)
    tasks = [find_task(name, options.task) for name in comma_separated(options.benchmark)]
    from sieverl.model.find import find_model

    path, run_dir = find_model(options.model)
    outputs = targets(options.output, [one.name for one in tasks], Path(path) if run_dir else None, run_dir)
    evaluate(options, tasks, path, outputs, samples, temperature, console)


def drawing(options: Options) -> tuple[int, float]:
    """How many responses a prompt gets and at which temperature; greedy only when it is asked for."""
    samples = options.k if options.k is not None else 1 if options.greedy else 4
    if samples < 1:
        raise UsageError(f"-k is {samples}; it must be at least 1 response a prompt")
    if options.max_num_seqs < 1 or (options.max_tokens is not None and options.max_tokens < 1):
        raise UsageError(
            f"--max-tokens is {options.max_tokens}, --max-num-seqs {options.max_num_seqs}; each must be at least 1"
        )
    if options.greedy and samples != 1:
        raise UsageError(f"-k is {samples}, but --greedy gives {samples} times the same response; use -k 1")
    if options.greedy and (options.temperature is not None or options.top_p != 1.0 or options.top_k):
        raise UsageError("--greedy takes no --temperature, --top-p or --top-k: it is the most likely token each time")
    temperature = 0.0 if options.greedy else 1.0 if options.temperature is None else options.temperature
    if not options.greedy and not temperature > 0:
        raise UsageError(f"--temperature is {temperature:g}; it must be above 0 (--greedy is the most likely token)")
    if not 0 < options.top_p <= 1 or options.top_k < 0:
        raise UsageError(
            f"--top-p is {options.top_p:g}, --top-k {options.top_k}; allowed: above 0 to 1, and 0 (off) or more"
        )
    return samples, temperature


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
    check_writable(files[0].parent, "a result in", "--output")
    return files


def _free(path: Path) -> Path:
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.stem}.{number}.json")
    return free


# --- measuring --------------------------------------------------------------------------------------


def evaluate(
    options: Options,
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
    from sieverl.display.tables import overview, show
    from sieverl.engines.builtin import BuiltinEngine
    from sieverl.engines.protocol import SamplingParams
    from sieverl.evaluation.results import sha256, write
    from sieverl.model.files import check_ids
    from sieverl.model.find import load_for_use, weights_hash
    from sieverl.model.load import stop_ids
    from sieverl.rollout.environment import Environment, PromptSet
    from sieverl.run_dir.versions import versions
    from sieverl.verify import Pool

    policy = load_for_use(path, options.dtype)
    tokenizer, engine = policy.tokenizer, BuiltinEngine(policy, options.max_num_seqs)
    chat = options.template == "chat" or (options.template == "auto" and has_chat_template(tokenizer))
    template = Template("chat" if chat else "plain", options.system, options.suffix)
    tokens = [[render(tokenizer, prompt, template) for prompt in one.prompts] for one in tasks]
    for one, rendered in zip(tasks, tokens, strict=True):
        check_context(policy, one, rendered)
        check_ids(policy.causal, tokenizer, rendered)
    console.print(f"{policy.causal.config.model_type}: {engine.ways}", style="dim")
    model = {
        "name": options.model,
        "path": path,
        "revision": getattr(policy.causal.config, "_commit_hash", None),
        "sha256": weights_hash(policy.model),
        "parameters": policy.causal.num_parameters(),
        "dtype": options.dtype,
    }
    chosen = {"template": template.style, "system": options.system, "suffix": options.suffix}
    chosen["chat_template_sha256"] = sha256(tokenizer.chat_template) if chat else None
    eos = stop_ids(policy.causal, tokenizer)
    results = []
    for one, rendered, output in zip(tasks, tokens, outputs, strict=True):
        sampling = SamplingParams(one.max_tokens, eos, temperature, options.top_p, options.top_k)
        drawn = asdict(sampling) | {"k": samples, "greedy": options.greedy, "seed": options.seed}
        with Pool(one.verifier) as pool:
            environment = Environment(engine, pool, tokenizer)
            prompts = PromptSet(one.prompts, rendered, sampling, options.seed)
            result = measured(one, environment, prompts, samples, console)
        result |= {"model": model, "sampling": drawn, "versions": versions()}
        result["prompt"] = chosen | {"example": tokenizer.decode(rendered[0])}
        write(output, result)
        results.append(result)
        show(result, output, console)
    if len(results) > 1:
        overview(results, console)


def check_context(policy: Policy, one: Task, tokens: Sequence[Sequence[int]]) -> None:
    """A UsageError with the arithmetic when the longest prompt and response exceed the model's positions."""
    from sieverl.model import families

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


def measured(one: Task, environment: Environment, prompts: PromptSet, samples: int, console: Console) -> dict[str, Any]:
    """What is measured of one benchmark, with a bar while it goes on."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from sieverl.evaluation.measure import measure, summarise, watched
    from sieverl.evaluation.results import row_of
    from sieverl.evaluation.votes import reader
    from sieverl.verify import check_gold

    total = len(one.prompts) * samples
    console.print(f"{one.name}: {len(one.prompts)} prompts x {samples} responses of up to {one.max_tokens} tokens")
    if one.dropped:
        console.print(f"{len(one.dropped)} rows cannot be used, the first: {one.dropped[0]}", style="yellow")
    unverifiable = check_gold(environment.pool, one.verifier, [prompt.row for prompt in one.prompts])
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
        records, _ = measure(
            watched(environment, lambda: progress.advance(bar)), prompts, samples, reader(one.verifier)
        )
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
