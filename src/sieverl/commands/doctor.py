"""What is installed, what is missing, and the command that adds it."""

from __future__ import annotations

import argparse
import json
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
    json: bool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `sieverl doctor`."""
    parser.add_argument("--model", metavar="M", help="a model directory, run, checkpoint or Hub id; `base`")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(options: Options) -> ExitCode:
    """Print what is installed, or how one model is computed."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    if options.model:
        return show_model(options.model, options.json)
    return show(options.json)


def show_model(name: str, as_json: bool) -> ExitCode:
    """Print how SieveRL computes a model, and why; a model that it cannot take is refused in one line."""
    from rich.table import Table

    from sieverl.display.terminal import Terminal
    from sieverl.engines.builtin import supported_ways
    from sieverl.model import families
    from sieverl.model.find import find_model, load_for_use

    policy = load_for_use(find_model(name)[0], "float32")
    config, ways = policy.causal.config, supported_ways(policy)
    limit, why = families.longest(config)
    rows = {
        "learner": "packed tokens" if ways.packed else "padded sequences",
        "decoding": families.DECODING[ways.decoding],
        "why": ways.why or "the fastest ways are right for it",
        "longest sequence": f"{limit:,} tokens, {why}" if limit else "no limit",
    }
    if as_json:
        print(
            json.dumps({"model": name, "type": config.model_type, "parameters": policy.causal.num_parameters()} | rows)
        )
        return ExitCode.DONE
    table = Table("what", "how", title=f"{name}: {config.model_type}, {policy.causal.num_parameters():,} parameters")
    for row in rows.items():
        table.add_row(*row)
    Terminal().print(table)
    return ExitCode.DONE


def show(as_json: bool) -> ExitCode:
    """Print what is installed; 3 when something that SieveRL needs is missing, else 0."""
    from rich.table import Table
    from rich.text import Text

    from sieverl.display.terminal import Terminal

    packages = {package: version(package) for package in REQUIRED}
    about = computer()
    missing = [package for package, found in packages.items() if found is None]
    if as_json:
        print(json.dumps({"sieverl": version("sieverl"), "packages": packages, **about}, indent=2))
        return ExitCode.DATA if missing else ExitCode.DONE
    table = Table(title=f"SieveRL {version('sieverl')} on Python {platform.python_version()}, {platform.system()}")
    for column in ("what", "found", "to do"):
        table.add_column(column, no_wrap=column == "to do")
    for package, found in packages.items():
        table.add_row(package, found or Text("missing", "red"), "" if found else "pip install sieverl")
    for what, value in about.items():
        table.add_row(what, value, "")
    Terminal().print(table)
    return ExitCode.DATA if missing else ExitCode.DONE


def computer() -> dict[str, str]:
    """The GPUs, the threads, and whether the shipped model loads."""
    import torch

    from sieverl.assets import BASE
    from sieverl.model.files import check_vocabulary
    from sieverl.model.load import load_model, load_tokenizer

    model, tokenizer = load_model(str(BASE)), load_tokenizer(str(BASE))
    check_vocabulary(model, tokenizer, str(BASE))
    cuda = f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}" if torch.cuda.is_available() else "none"
    return {
        "GPU": cuda,
        "CPU threads of PyTorch": f"{torch.get_num_threads()} of {os.cpu_count()}",
        "shipped model": f"{model.num_parameters():,} parameters, {len(tokenizer)} tokens",
    }
