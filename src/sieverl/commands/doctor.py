"""What is installed, what is missing, and the command that adds it."""

from __future__ import annotations

import argparse
import os
import platform
from dataclasses import dataclass

from sieverl.errors import ExitCode
from sieverl.run_dir.versions import version

REQUIRED = ("torch", "transformers", "tokenizers", "safetensors", "datasets", "peft", "math-verify", "reasoning-gym")


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of `sieverl doctor`."""

    model: str | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `sieverl doctor`."""
    parser.add_argument("--model", metavar="M", help="a model directory, run, checkpoint or Hub id; `base`")


def run(options: Options) -> ExitCode:
    """Print what is installed, or how one model is computed."""
    return show_model(options.model) if options.model else show()


def show_model(name: str) -> ExitCode:
    """Print how SieveRL computes a model, and why; a model that it cannot take is refused in one line."""
    from rich.table import Table
    from transformers.utils.logging import disable_progress_bar

    from sieverl.display.terminal import Terminal
    from sieverl.engines.builtin import supported_ways
    from sieverl.model import families
    from sieverl.model.find import find_model, load_for_use

    disable_progress_bar()
    policy = load_for_use(find_model(name)[0], "float32")
    config, ways = policy.causal.config, supported_ways(policy)
    limit, why = families.longest(config)
    table = Table(title=f"{name}: {config.model_type}, {policy.causal.num_parameters():,} parameters")
    for column in ("what", "how"):
        table.add_column(column)
    table.add_row("learner", "packed tokens" if ways.packed else "padded sequences")
    table.add_row("decoding", families.DECODING[ways.decoding])
    table.add_row("why", ways.why or "the fastest ways are right for it")
    table.add_row("longest sequence", f"{limit:,} tokens, {why}" if limit else "no limit")
    Terminal().print(table)
    return ExitCode.DONE


def show() -> ExitCode:
    """Print the table; 3 when something that SieveRL needs is missing, else 0."""
    import torch
    from rich.table import Table
    from rich.text import Text
    from transformers.utils.logging import disable_progress_bar

    from sieverl.assets import BASE
    from sieverl.display.terminal import Terminal
    from sieverl.model.files import check_vocabulary
    from sieverl.model.load import load_model, load_tokenizer

    disable_progress_bar()
    table = Table(title=f"SieveRL {version('sieverl')} on Python {platform.python_version()}, {platform.system()}")
    for column in ("what", "found", "to do"):
        table.add_column(column, no_wrap=column == "to do")
    missing = 0
    for package in REQUIRED:
        found = version(package)
        missing += found is None
        table.add_row(package, found or Text("missing", "red"), "" if found else "pip install sieverl")
    cuda = f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}" if torch.cuda.is_available() else "none"
    table.add_row("GPU", cuda, "")
    table.add_row("CPU threads of PyTorch", f"{torch.get_num_threads()} of {os.cpu_count()}", "")
    model, tokenizer = load_model(str(BASE)), load_tokenizer(str(BASE))
    check_vocabulary(model, tokenizer, str(BASE))
    table.add_row("shipped model", f"{model.num_parameters():,} parameters, {len(tokenizer)} tokens", "")
    Terminal().print(table)
    return ExitCode.DATA if missing else ExitCode.DONE
