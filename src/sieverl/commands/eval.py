"""`sieverl eval`: measure a model on benchmarks, write the numbers and all they depend on; or compare two results."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sieverl.data.chat import Style
from sieverl.errors import UsageError
from sieverl.evaluation.tasks import MAX_TOKENS, Task, TaskOptions, find_task
from sieverl.files import check_writable, storing, user_path
from sieverl.options import comma_separated, key_values

if TYPE_CHECKING:
    from rich.console import Console

    from sieverl.evaluation.kept import KeptSampling
    from sieverl.evaluation.results import Measured, Result
    from sieverl.evaluation.subject import Subject
    from sieverl.rollout.environment import PromptSet
    from sieverl.run_dir.parts import Parts


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of `sieverl eval`; the help of each says what it is."""

    model: str | None = None
    benchmark: str | None = None
    k: int | None = None
    temperature: float | None = None
    greedy: bool = False
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int | None = None
    limit: int | None = None
    template: Style = "auto"
    system: str | None = None
    suffix: str | None = None
    seed: int = 0
    dtype: str = "float32"
    max_num_seqs: int = 256
    verifier: str | None = None
    option: Sequence[str] = ()
    columns: str = ""
    split: str = "test"
    source_option: Sequence[str] = ()
    output: str | None = None
    compare: Sequence[str] | None = None
    json: bool = False

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
    add("--model", metavar="M", help="model directory, run, checkpoint or Hub id; `base` and `hasty` are shipped")
    add(
        "--benchmark",
        metavar="B,B,...",
        help="math500, minerva, olympiad, aime24, aime25, amc23, gsm8k, ... (`sieverl data list`), NAME@LOCAL-COPY, "
        "a file, org/name, reasoning_gym:TASK, or demo (the held-out prompts of `sieverl demo`)",
    )
    add("-k", type=int, metavar="N", help="responses a prompt (default: 4; with --greedy 1)")
    add("--temperature", type=float, help="default: 1.0")
    add("--greedy", action="store_true", help="the most likely token each time, one response a prompt")
    add(
        "--top-p",
        type=float,
        default=1.0,
        metavar="P",
        help="sample from the likeliest tokens of this probability; default: 1, all",
    )
    add("--top-k", type=int, default=0, metavar="N", help="sample from the N likeliest tokens; default: 0, all")
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
    add("--json", action="store_true", help="print the scores as JSON on standard output, all else on standard error")


def run(options: Options) -> None:
    """Compare two results, or measure a model on benchmarks and write what was measured."""
    from sieverl.display.terminal import Terminal

    console = Terminal(soft_wrap=True, highlight=False, stderr=options.json)
    if options.compare:
        from sieverl.display.tables import compare

        found: object = compare(Path(options.compare[0]), Path(options.compare[1]), console)
    else:
        found = [{**result, "rows": str(output)} for result, output in measure(options, console)]
    if options.json:
        print(json.dumps(found, indent=2))


def measure(options: Options, console: Console) -> list[tuple[Result, Path]]:
    """Measure a model on benchmarks: the result of each, and its file."""
    if not options.model or not options.benchmark:
        raise UsageError("sieverl eval takes --model M and --benchmark B,B,... (or --compare A.json B.json)")
    samples, temperature = sample_count(options)
    tasks = [find_task(name, options.task) for name in comma_separated(options.benchmark)]
    from sieverl.model.find import find_model

    path, run_dir = find_model(options.model)
    outputs = output_files(options.output, [task.name for task in tasks], Path(path) if run_dir else None, run_dir)
    return evaluate(options, tasks, path, outputs, (samples, temperature), console)


def sample_count(options: Options) -> tuple[int, float]:
    """Responses a prompt, and the temperature; greedy only when it is asked for."""
    samples = options.k if options.k is not None else 1 if options.greedy else 4
    if samples < 1:
        raise UsageError(f"-k is {samples}; it must be at least 1 response a prompt")
    if options.max_num_seqs < 1 or (options.max_tokens is not None and options.max_tokens < 1):
        raise UsageError(
            f"--max-tokens is {options.max_tokens}, --max-num-seqs {options.max_num_seqs}; each must be at least 1"
        )
    if not 0 <= options.seed < 2**63:
        raise UsageError(f"--seed is {str(options.seed)[:40]}; it must be from 0 to {2**63 - 1}, a number of 63 bits")
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


def output_files(
    output: str | None, names: Sequence[str], checkpoint: Path | None, run_dir: Path | None
) -> tuple[list[Path], bool]:
    """The result file of each benchmark, and whether --output names it; else it is in the run (or here)."""
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(
            f"two benchmarks are called {twice}; evaluate them one after the other, each with its --output"
        )
    given = user_path(output) if output else None
    named = given is not None and given.suffix == ".json" and not given.is_dir()
    if given and named:
        if len(names) > 1:
            raise UsageError(f"--output {output} is one file for {len(names)} benchmarks; give a directory")
        files = [given]
    else:
        folder = given or run_dir or Path()
        suffix = f"-{checkpoint.name}" if checkpoint else ""
        files = [folder / f"eval-{name}{suffix}.json" for name in names]
    check_writable(files[0].parent, "a result in", "--output")
    return files, named


def free(path: Path, begun: Callable[[Path], bool]) -> Path:
    """`path`, or with a number the first that no result has yet; one that this command has `begun` is its own."""
    number, candidate = 1, path
    while candidate.exists() and not begun(candidate):
        number += 1
        candidate = path.with_name(f"{path.stem}.{number}.json")
    return candidate


# --- measuring --------------------------------------------------------------------------------------


def evaluate(
    options: Options,
    tasks: Sequence[Task],
    path: str,
    outputs: tuple[Sequence[Path], bool],
    sampled: tuple[int, float],
    console: Console,
) -> list[tuple[Result, Path]]:
    """Measure one benchmark after the other: the result of each, and its file, written at once.

    `outputs` are those of `output_files`, `sampled` the responses a prompt and the temperature. What was sampled is
    kept beside each result until all are written, so the same command goes on from it.
    """
    from sieverl.data import Template
    from sieverl.display.tables import overview, show
    from sieverl.engines.protocol import SamplingParams
    from sieverl.evaluation.kept import kept_sampling
    from sieverl.evaluation.results import write
    from sieverl.evaluation.subject import Subject
    from sieverl.rollout.environment import PromptSet
    from sieverl.run_dir.versions import versions

    template = Template(options.template, options.system, options.suffix)
    subject = Subject.load(str(options.model), path, options.dtype, options.max_num_seqs, template)
    tokens = [subject.render(task) for task in tasks]
    console.print(f"{subject.policy.causal.config.model_type}: {subject.engine.ways}", style="dim")
    model, (samples, temperature), (places, named) = subject.about(), sampled, outputs
    results: list[Result] = []
    written: list[Path] = []
    begun: list[Parts] = []
    for task, prompt_tokens, place in zip(tasks, tokens, places, strict=True):
        sampling = SamplingParams(task.max_tokens, subject.eos, temperature, options.top_p, options.top_k)
        prompts = PromptSet(task.prompts, prompt_tokens, sampling, options.seed)
        kept = kept_sampling(subject, prompts, samples, task.verifier, place, partial(say, console))
        output = place if named else free(place, kept.begun)
        begun.append((kept := kept.beside(output)).parts)
        measured = measure_task(subject, task, prompts, samples, kept, console)
        result: Result = {
            **measured,
            "model": model,
            "sampling": asdict(sampling) | {"k": samples, "greedy": options.greedy, "seed": options.seed},
            "prompt": subject.about_prompt(prompt_tokens[0]),
            "versions": versions(),
        }
        with storing("the result", output.parent):
            write(output, result)
        results.append(result)
        written.append(output)
        show(result, output, console)
    if len(results) > 1:
        overview(results, console)
    for parts in begun:
        parts.remove()
    return list(zip(results, written, strict=True))


def say(console: Console, text: str) -> None:
    """A line about what is kept."""
    console.print(text, style="yellow", markup=False)


def measure_task(
    subject: Subject, task: Task, prompts: PromptSet, samples: int, kept: KeptSampling, console: Console
) -> Measured:
    """What is measured of one benchmark, with a progress bar."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from sieverl.evaluation.measure import measure
    from sieverl.evaluation.results import row_of, scores_of
    from sieverl.rollout.environment import Environment
    from sieverl.verify import Pool, check_gold

    console.print(f"{task.name}: {len(task.prompts)} prompts x {samples} responses of up to {task.max_tokens} tokens")
    if task.dropped:
        console.print(f"{len(task.dropped)} rows cannot be used, the first: {task.dropped[0]}", style="yellow")
    columns = (TextColumn("responses"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Pool(task.verifier) as pool:
        unverifiable = check_gold(pool, task.verifier, [prompt.row for prompt in task.prompts])
        if unverifiable:
            answer = str(unverifiable[0][0].get("answer"))[:80]
            console.print(
                f"{len(unverifiable)} gold answers do not verify, so no response to them can be correct; the first: "
                f"{answer!r}",
                style="yellow",
                markup=False,
            )
        kept.parts.report()
        anew, started = not kept.parts.kept(), time.perf_counter()
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
            bar = progress.add_task(task.name, total=len(task.prompts) * samples)
            environment = Environment(subject.engine, pool, subject.policy.tokenizer)
            sample = replace(kept, tick=lambda: progress.advance(bar))
            found = measure(environment, prompts, samples, task.verifier, sample)
        seconds = time.perf_counter() - started
    if anew:
        tokens = sum(sum(record.lengths) for record in found.records)
        console.print(f"{tokens:,} tokens in {seconds:.1f} s, {tokens / seconds:,.0f} a second", style="dim")
    about = {
        "name": task.name,
        "prompts": len(found.records),
        "dropped": len(task.dropped),
        "origin": dict(task.origin),
    }
    return {
        "benchmark": {**about, "gold_unverifiable": len(unverifiable)},
        "verifier": dict(task.verifier),
        "scores": scores_of(found.summary),
        "shares": dict(found.summary.shares),
        "rows": [row_of(task.prompts[record.prompt], record) for record in found.records],
    }
