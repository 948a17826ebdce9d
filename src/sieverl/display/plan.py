"""The plan as tables of at most 80 columns, and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from sieverl.planning.plan import Choice, Plan
from sieverl.recipe import keys
from sieverl.types import JsonObject

WHEN = {"always": "always", "generate": "generate", "update": "update", "reduce": "after backward"}


def size(count: float) -> str:
    """Bytes in GB (10^9).

    >>> size(0), size(2.5e6), size(1.234e9), size(1234.5e9)
    ('-', '0.003', '1.2', '1234')
    """
    gigabytes = count / 1e9
    if not count:
        return "-"
    return f"{gigabytes:.3f}" if gigabytes < 0.1 else f"{gigabytes:.1f}" if gigabytes < 1000 else f"{gigabytes:.0f}"


def duration(seconds: float) -> str:
    """Seconds, with the digits that matter.

    >>> duration(0), duration(0.0123), duration(3.21), duration(1234.5)
    ('-', '0.012', '3.2', '1,234')
    """
    if not seconds:
        return "-"
    return f"{seconds:.3f}" if seconds < 0.1 else f"{seconds:.1f}" if seconds < 100 else f"{seconds:,.0f}"


def show(plan: Plan, found: Sequence[Choice], best: Choice | None, console: Console) -> None:
    """Print memory and time of the recipe as it is, then the ways to lay it out and the fastest that fits."""
    work, gpu = plan.work, plan.machine
    console.print(
        f"{plan.shape.name}: {plan.shape.parameters:,} parameters, {plan.setting.dtype}; "
        f"{plan.setting.gpus} x {gpu.name} {gpu.memory / 1e9:g} GB, {gpu.flops / 1e12:g} TFLOP/s, "
        f"{gpu.bandwidth / 1e9:g} GB/s\n"
        f"a step: {work.prompts} prompts x {work.samples} responses of {work.lengths.mean:.0f} tokens (at most "
        f"{work.lengths.limit}, 99% below {work.lengths.tail:g} x the mean), {work.kept:.0%} kept, "
        f"{work.updates} update{'s' if work.updates > 1 else ''}",
        highlight=False,
    )
    console.print(_memory(plan))
    console.print(_time(plan))
    console.print(_choices(found, best, plan))
    _advice(plan, best, console)


def _memory(plan: Plan) -> Table:
    verdict = "fits" if plan.fits else "does not fit"
    table = Table(title=f"memory of one GPU, GB: the recipe as it is {verdict}")
    for column in ("", "GB", "when"):
        table.add_column(column, justify="right" if column == "GB" else "left")
    for item in plan.items:
        table.add_row(item.name, size(item.bytes), "on the host" if item.host else WHEN[item.when])
    table.add_section()
    table.add_row("peak", size(plan.peak), f"of {size(plan.machine.usable)} usable (10% is kept free)")
    return table


def _time(plan: Plan) -> Table:
    table = Table(title=f"time of a step: {duration(plan.seconds)} s")
    for column in ("", "seconds", "share", "GB sent by a GPU", "bound by"):
        table.add_column(column, justify="left" if column in ("", "bound by") else "right")
    for phase in plan.phases:
        share = f"{phase.seconds / plan.seconds:.0%}"
        table.add_row(phase.name, duration(phase.seconds), share, size(phase.sent), phase.bound)
    return table


def _choices(found: Sequence[Choice], best: Choice | None, plan: Plan) -> Table:
    table = Table(title=f"ways to run it on {plan.setting.gpus} x {plan.machine.name}")
    for column in ("", "GB a GPU", "host GB", "step, s", "engine"):
        table.add_column(column, justify="left" if column in ("", "engine") else "right")
    for choice in found:
        one, engine = choice.plan, choice.plan.setting.engine
        split = f" x {one.setting.tensor_parallel}" if one.setting.tensor_parallel > 1 else ""
        time = duration(one.seconds) if one.fits else "too large"
        style = "bold green" if choice is best else "" if one.fits else "dim"
        table.add_row(choice.name, size(one.peak), size(one.host), time, engine + split, style=style)
    return table


def _advice(plan: Plan, best: Choice | None, console: Console) -> None:
    if plan.work.kept < 1:
        console.print(
            f"selection saves {plan.saved:.0%} of a step, against masking the {1 - plan.work.kept:.0%} that is rejected"
        )
    if best is None:
        console.print("nothing fits: take more or larger GPUs, or lower rollout.max_tokens", style="yellow")
        return
    options = best.plan.setting.options(plan.setting)
    if not options:  # the recipe's own
        console.print(f"fastest that fits: {best.name}, as the recipe is")
        return
    console.print(f"fastest that fits: {best.name} ({duration(best.plan.seconds)} s a step); add to sieverl train:")
    known = {f"--{name}" for name, _ in keys()}
    for option in options:
        missing = "" if option.split()[0] in known else "  (not in this version)"
        console.print(f"  {option}{missing}", highlight=False)


def as_json(plan: Plan, found: Sequence[Choice], best: Choice | None) -> JsonObject:
    """Everything that the tables show, in bytes and seconds."""
    return {
        "model": {"name": plan.shape.name, "parameters": plan.shape.parameters},
        "work": asdict(plan.work),
        "machine": asdict(plan.machine),
        "recipe": _plan_json(plan),
        "saved_by_selection": plan.saved,
        "choices": [{"name": choice.name, **_plan_json(choice.plan)} for choice in found],
        "best": None if best is None else {"name": best.name, "options": best.plan.setting.options(plan.setting)},
    }


def _plan_json(plan: Plan) -> JsonObject:
    return {
        "setting": asdict(plan.setting),
        "memory": [asdict(item) for item in plan.items],
        "peak_bytes": plan.peak,
        "usable_bytes": plan.machine.usable,
        "host_bytes": plan.host,
        "fits": plan.fits,
        "phases": [asdict(phase) for phase in plan.phases],
        "seconds": plan.seconds,
    }
