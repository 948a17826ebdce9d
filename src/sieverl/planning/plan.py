"""The plan of a recipe on given GPUs: what it needs, how long a step takes, and the fastest setting that fits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from sieverl.planning.machine import Machine
from sieverl.planning.memory import Item, memory, peak
from sieverl.planning.setting import Setting
from sieverl.planning.shape import Shape
from sieverl.planning.step import Phase, saved, seconds, step_time
from sieverl.planning.work import Work

SAME = 1.03  # step times within this are told apart by nobody
LORA_RANK = 32  # of what is proposed where all weights do not fit
SMALLEST_BATCH = 8  # sequences that an engine is asked to decode at least


@dataclass(frozen=True)
class Plan:
    """A setting with what it needs."""

    shape: Shape
    setting: Setting
    work: Work
    machine: Machine

    @cached_property
    def items(self) -> list[Item]:
        """What is in the memory of one GPU, and of the host for it."""
        return memory(self.shape, self.setting, self.work, self.machine.context)

    @cached_property
    def phases(self) -> list[Phase]:
        """The parts of a step."""
        return step_time(self.shape, self.setting, self.work, self.machine)

    @property
    def peak(self) -> float:
        """Bytes of GPU memory at the fullest moment."""
        return peak(self.items)

    @property
    def host(self) -> float:
        """Bytes of host memory for each GPU."""
        return sum(item.bytes for item in self.items if item.host)

    @property
    def fits(self) -> bool:
        """Whether the peak is within what may be planned with."""
        return self.peak <= self.machine.usable

    @property
    def seconds(self) -> float:
        """Of a step."""
        return seconds(self.phases)

    @property
    def saved(self) -> float:
        """The share of a step that selection saves."""
        return saved(self.shape, self.setting, self.work, self.machine)


@dataclass(frozen=True)
class Choice:
    """A named way to lay the work out, and its fastest plan that fits (or its smallest one)."""

    name: str
    plan: Plan


def choices(plan: Plan, tensor_parallel: tuple[int, ...] = (1, 2, 4, 8)) -> list[Choice]:
    """The fastest plan of every way to lay the work out. Names, sizes and results stay as the recipe has them.

    Micro-batches and decoding batches are halved until they fit; LoRA is a way of its own, since it trains something
    else.
    """
    return [Choice(name, _best(plan, setting, tensor_parallel)) for name, setting in _ways(plan)]


def cheapest(found: list[Choice], plan: Plan) -> Choice | None:
    """The simplest of the fastest choices that fit, to 3%; choices come with the simplest first.

    Adapters are chosen only where the recipe has them or nothing else fits.
    """
    fitting = [choice for choice in found if choice.plan.fits]
    now = plan.setting
    for alike in (
        lambda one: (bool(one.lora_rank), one.quantization) == (bool(now.lora_rank), now.quantization),
        lambda one: not one.quantization,
        lambda one: True,
    ):
        if same := [choice for choice in fitting if alike(choice.plan.setting)]:
            fastest = min(choice.plan.seconds for choice in same)
            return next(choice for choice in same if choice.plan.seconds <= SAME * fastest)
    return None


def _ways(plan: Plan) -> Iterator[tuple[str, Setting]]:
    """Every way to lay the work out, by its name."""
    now = plan.setting
    whole = replace(now, strategy="replicated", shard=1, cpu_offload=False)
    layouts = [("replicated", whole)]
    if now.gpus > 1:
        fsdp = replace(whole, strategy="fsdp", shard=now.gpus)
        layouts.append(("fsdp", fsdp))
        if not now.lora_rank:  # adapters have little to offload
            layouts.append(("fsdp, CPU offload", replace(fsdp, cpu_offload=True)))
    ways = [("", now.lora_rank, now.quantization, layouts[:1] if now.quantization else layouts)]
    if not now.lora_rank:
        ways.append(("LoRA, ", LORA_RANK, "", layouts[:2]))
    if not now.quantization:  # packed weights are not sharded, and only the built-in engine samples from them
        own = replace(whole, engine="torch", tensor_parallel=1)
        ways.append(("QLoRA, ", now.lora_rank or LORA_RANK, "nf4", [("replicated", own)]))
    for prefix, rank, quantization, places in ways:
        for name, place in places:
            one = replace(place, lora_rank=rank, quantization=quantization, activation_checkpointing=False)
            yield prefix + name, one
            yield f"{prefix}{name}, checkpointing", replace(one, activation_checkpointing=True)


def _best(plan: Plan, setting: Setting, tensor_parallel: tuple[int, ...]) -> Plan:
    """The fastest plan that fits over engines, shard sizes and batch sizes, else the one that needs least.

    Another engine is another program to install, so it is taken only where the recipe's own does not fit.
    """
    owns = [_shrunk(replace(plan, setting=one)) for one in _shards(setting, plan.machine.node)]
    fitting = [one for one in owns if one.fits]
    if not fitting and not setting.quantization:
        splits = [replace(setting, engine="vllm", tensor_parallel=n) for n in tensor_parallel if n <= setting.gpus]
        owns += [_shrunk(replace(plan, setting=one)) for split in splits for one in _shards(split, plan.machine.node)]
        fitting = [one for one in owns if one.fits]
    return min(fitting, key=lambda one: one.seconds) if fitting else min(owns, key=lambda one: one.peak)


def _shards(setting: Setting, node: int) -> list[Setting]:
    """A sharded setting over all GPUs, and over parts of them that are replicas of each other (hybrid sharding)."""
    if setting.strategy != "fsdp":
        return [setting]
    sizes = [setting.gpus, *(node * 2**k for k in range(10) if node * 2**k < setting.gpus)]
    return [replace(setting, shard=size) for size in sizes if setting.gpus % size == 0]


def _shrunk(plan: Plan) -> Plan:
    """The same with smaller batches, halved until each moment fits or nothing is left to halve."""
    while not plan.fits:
        setting = plan.setting
        moments = {when: sum(item.bytes for item in plan.items if item.when == when) for when in ("update", "generate")}
        if moments["update"] >= moments["generate"] and setting.micro_batch_tokens // 2 >= plan.work.longest:
            plan = replace(plan, setting=replace(setting, micro_batch_tokens=setting.micro_batch_tokens // 2))
        elif setting.max_num_seqs // 2 >= SMALLEST_BATCH and moments["generate"] > moments["update"]:
            plan = replace(plan, setting=replace(setting, max_num_seqs=setting.max_num_seqs // 2))
        else:
            return plan
    return plan
