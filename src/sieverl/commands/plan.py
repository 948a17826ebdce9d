"""`sieverl plan`: memory, traffic and time of a recipe on given GPUs, before any of them is paid for."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sieverl.commands.keys import KEYS_USAGE, RECIPE_HELP, add_keys
from sieverl.errors import ExitCode, UsageError, nearest
from sieverl.options import parse_keys

if TYPE_CHECKING:
    from sieverl.planning.machine import Machine
    from sieverl.planning.plan import Plan
    from sieverl.recipe import Recipe

PROMPT_TOKENS = 256
MOST_GPUS = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of `sieverl plan`. `overrides` are keys of the recipe, as `--key=value`."""

    recipe: Sequence[str]
    gpus: int
    gpu: str
    gpu_memory: float | None
    bandwidth: float | None
    flops: float | None
    link: float | None
    network: float | None
    model_shape: str | None
    prompt_tokens: int
    response_tokens: float | None
    tail: float
    kept: float | None
    json: bool
    overrides: Sequence[str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `sieverl plan`."""
    parser.usage = f"{parser.prog} RECIPE.toml [RECIPE.toml ...] {KEYS_USAGE}"
    parser.add_argument("recipe", nargs="+", metavar="RECIPE.toml", help=RECIPE_HELP)
    parser.add_argument("--gpus", type=int, default=1, metavar="N", help="GPUs, in nodes of 8 (default: 1)")
    parser.add_argument("--gpu", default="H100", metavar="NAME", help="H100 (default), H200, H20, B200, A100, ...")
    for name, unit, what in (
        ("gpu-memory", "GB", "memory of one GPU"),
        ("bandwidth", "GB/s", "bandwidth of its memory"),
        ("flops", "TFLOP/s", "its dense bfloat16 peak"),
        ("link", "GB/s", "between the GPUs of a node, in one direction"),
        ("network", "GB/s", "between nodes, for each GPU"),
    ):
        parser.add_argument(f"--{name}", type=float, metavar=unit, help=f"{what}; default: that of --gpu")
    parser.add_argument("--model-shape", metavar="M", help="config.json, model directory or name, as Qwen2.5-7B")
    parser.add_argument("--prompt-tokens", type=int, default=PROMPT_TOKENS, metavar="N", help="mean of a prompt: 256")
    parser.add_argument("--response-tokens", type=float, metavar="N", help="mean length; default: a third of the limit")
    parser.add_argument("--tail", type=float, default=3.0, metavar="X", help="99th percentile / mean length; 3")
    parser.add_argument("--kept", type=float, metavar="SHARE", help="responses that are trained on; default: 0.5 or 1")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    add_keys(parser)


def run(options: Options) -> ExitCode:
    """Print the plan."""
    from sieverl.display.plan import as_json, show
    from sieverl.display.terminal import Terminal
    from sieverl.planning.plan import cheapest, choices
    from sieverl.recipe import load

    plan = make_plan(load(options.recipe, parse_keys(options.overrides), os.environ), options)
    found = choices(plan)
    best = cheapest(found, plan)
    if options.json:
        print(json.dumps(as_json(plan, found, best), indent=2))
    else:
        show(plan, found, best, Terminal())
    return ExitCode.DONE


def make_plan(recipe: Recipe, options: Options) -> Plan:
    """The plan of the recipe as it is. Raises a UsageError for sizes that cannot be."""
    from sieverl.algorithms.axes import with_axes
    from sieverl.algorithms.credit import everything
    from sieverl.algorithms.named import get_algorithm
    from sieverl.assets import MODELS, model_place
    from sieverl.planning.lengths import Lengths
    from sieverl.planning.plan import Plan
    from sieverl.planning.setting import setting_of
    from sieverl.planning.shape import find_shape
    from sieverl.planning.work import work_of

    machine = chosen_machine(options)
    name = options.model_shape or recipe.model.path or "base"
    shape = replace(find_shape(model_place(name)), name=name) if name in MODELS else find_shape(name)
    algorithm = with_axes(get_algorithm(recipe.algorithm), recipe.chosen_axes)
    limit = recipe.rollout.max_tokens
    mean = options.response_tokens or max(1.0, limit / 3)
    kept = options.kept
    if kept is None:
        kept = 1.0 if algorithm.select is everything or algorithm.penalises_sampled else 0.5
    critic = algorithm.critic is not None and not algorithm.critic.shared
    lengths = Lengths(mean, options.tail, limit)
    work = work_of(recipe, algorithm.needs, critic, lengths, kept, options.prompt_tokens)
    return Plan(shape, setting_of(recipe, options.gpus), work, machine)


def chosen_machine(options: Options) -> Machine:
    """The GPU that the options describe. Raises a UsageError for one that cannot be."""
    from sieverl.planning.machine import GB, GPUS

    if not 1 <= options.gpus <= MOST_GPUS:
        raise UsageError(f"--gpus is {str(options.gpus)[:40]}; a plan is for 1 GPU or more, up to {MOST_GPUS:,}")
    if options.gpu not in GPUS:
        raise UsageError(
            f"--gpu is {options.gpu!r}.{nearest(options.gpu, GPUS)} Known are {', '.join(GPUS)}; describe another one "
            "with --gpu-memory, --bandwidth and --flops"
        )
    gpu = GPUS[options.gpu]

    def given(value: float | None, unit: float, option: str, default: float) -> float:
        if value is not None and not 1e-9 <= value <= 1e9:
            raise UsageError(f"{option} is {value:g}; it must be above 0, and no more than 1e9")
        return default if value is None else value * unit

    return replace(
        gpu,
        memory=given(options.gpu_memory, GB, "--gpu-memory", gpu.memory),
        bandwidth=given(options.bandwidth, GB, "--bandwidth", gpu.bandwidth),
        flops=given(options.flops, 1e12, "--flops", gpu.flops),
        link=given(options.link, GB, "--link", gpu.link),
        network=given(options.network, GB, "--network", gpu.network),
    )
