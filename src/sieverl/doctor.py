"""What is installed, what is missing, and the command that adds it."""

from __future__ import annotations

import importlib.metadata
import os
import platform

from rich.console import Console
from rich.markup import escape
from rich.table import Table

REQUIRED = ("torch", "transformers", "tokenizers", "safetensors", "datasets", "peft", "math-verify", "reasoning-gym")
EXTRAS = {"vllm": "vllm", "ray": "ray", "wandb": "wandb", "tensorboard": "tensorboard", "trackio": "trackio"}


def version(package: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def show_model(name: str) -> int:
    """Print how SieveRL computes a model, and why; a model that it cannot take is refused in one line."""
    from transformers.utils.logging import disable_progress_bar

    from sieverl import families
    from sieverl.loading import find_model, load_for_use
    from sieverl.rollout.torch_engine import chosen_ways

    disable_progress_bar()
    policy = load_for_use(find_model(name)[0], "float32")
    config, ways = policy.causal.config, chosen_ways(policy)
    limit, why = families.longest(config)
    table = Table(title=f"{escape(name)}: {config.model_type}, {policy.causal.num_parameters():,} parameters")
    for column in ("what", "how"):
        table.add_column(column)
    table.add_row("learner", "packed tokens" if ways.packed else "padded rows")
    table.add_row("decoding", families.DECODING[ways.decoding])
    table.add_row("why", ways.why or "the fastest ways are right for it")
    table.add_row("longest row", f"{limit:,} tokens, {why}" if limit else "no limit")
    Console().print(table)
    return 0


def show() -> int:
    """Print the table; 3 when something that SieveRL needs is missing, else 0."""
    import torch
    from transformers.utils.logging import disable_progress_bar

    from sieverl.model_files import check_vocabulary, load_model, load_tokenizer
    from sieverl.setup import BASE

    disable_progress_bar()
    table = Table(title=f"SieveRL {version('sieverl')} on Python {platform.python_version()}, {platform.system()}")
    for column in ("what", "found", "to do"):
        table.add_column(column, no_wrap=column == "to do")
    missing = 0
    for package in REQUIRED:
        found = version(package)
        missing += found is None
        table.add_row(package, found or "[red]missing[/]", "" if found else "pip install sieverl")
    for package, extra in EXTRAS.items():
        found = version(package)
        table.add_row(f"{package} (extra)", found or "-", "" if found else escape(f"pip install 'sieverl[{extra}]'"))
    cuda = f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}" if torch.cuda.is_available() else "none"
    table.add_row("GPU", cuda, "")
    table.add_row("CPU threads of PyTorch", f"{torch.get_num_threads()} of {os.cpu_count()}", "")
    model, tokenizer = load_model(str(BASE)), load_tokenizer(str(BASE))
    check_vocabulary(model, tokenizer, str(BASE))
    table.add_row("shipped model", f"{model.num_parameters():,} parameters, {len(tokenizer)} tokens", "")
    Console().print(table)
    return 3 if missing else 0
