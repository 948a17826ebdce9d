"""Time and traffic of one step, phase by phase."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sieverl.planning.generation import generate
from sieverl.planning.machine import Machine
from sieverl.planning.memory import engine_weights, trained
from sieverl.planning.setting import Setting
from sieverl.planning.shape import Shape
from sieverl.planning.work import Work

HOST_ADAM = 2e9  # parameters/s of AdamW on the CPUs of a node, for one of its GPUs: a few dozen bytes each
DEQUANTISE = 1.3  # arXiv 2305.14314 and bitsandbytes: dequantising makes a product this much longer


@dataclass(frozen=True)
class Phase:
    """A part of a step: `seconds`, the bytes that each GPU sends to others in it, and what bounds it."""

    name: str
    seconds: float
    sent: float
    bound: str


def step_time(shape: Shape, setting: Setting, work: Work, machine: Machine) -> list[Phase]:
    """Generate, verify, score, update and sync, one after the other, as the loop does them."""
    sampled = generate(shape, setting, work, machine)
    return [
        Phase("generate", sampled.seconds, sampled.link * machine.link, sampled.bound),
        _verify(setting, work, sampled.seconds),
        _score(shape, setting, work, machine),
        _update(shape, setting, work, machine),
        _sync(shape, setting, machine),
    ]


def seconds(phases: list[Phase]) -> float:
    """Of the whole step."""
    return sum(phase.seconds for phase in phases)


def saved(shape: Shape, setting: Setting, work: Work, machine: Machine) -> float:
    """The share of a step that selection saves against computing every response and masking the rejected ones."""
    kept = seconds(step_time(shape, setting, work, machine))
    return 1 - kept / seconds(step_time(shape, setting, replace(work, kept=1.0), machine))


def forward_flops(shape: Shape, work: Work) -> float:
    """Of the layers for one pass over the kept responses: 2 a weight and token, and attention (arXiv 2001.08361)."""
    sequences = work.kept * work.responses
    whole = work.prompt_tokens**2 + 2 * work.prompt_tokens * work.lengths.mean + work.lengths.square
    return 2 * shape.matrices * work.learner_tokens + sequences * shape.attention_flops(whole**0.5)


def head_flops(shape: Shape, work: Work) -> float:
    """Of the output layer for one forward: only response tokens have logits."""
    return 2 * shape.embedding * work.kept * work.response_tokens


def update_flops(shape: Shape, setting: Setting, work: Work) -> float:
    """Of one pass: three times the forward, four with activation checkpointing (arXiv 2104.04473, section 3.5).

    So 6 a weight and token, or 8. Frozen weights have no gradient of their own, so LoRA costs 4, or 6. The log-prob
    head computes its logits a second time in the backward, as it keeps none.
    """
    layers = (2 if setting.lora_rank else 3) + setting.activation_checkpointing
    head = 3 if setting.lora_rank else 4
    both = 2 * work.kept * work.response_tokens * shape.embedding
    return layers * forward_flops(shape, work) + head * both


def _verify(setting: Setting, work: Work, sampling: float) -> Phase:
    """Responses are verified as soon as they end, so only what takes longer than sampling counts, and the last ones."""
    total = work.responses * work.verify_seconds / max(1, setting.gpus)
    return Phase("verify", max(work.verify_seconds, total - sampling), 0.0, "CPU")


def _score(shape: Shape, setting: Setting, work: Work, machine: Machine) -> Phase:
    """Forwards of old log-probs, reference log-probs and values, where the algorithm needs them."""
    passes = work.old + work.reference + work.critic
    if not passes or not work.kept:
        return Phase("score", 0.0, 0.0, "nothing to score")
    logits = head_flops(shape, work) * (work.old + work.reference)
    computed = _compute(passes * forward_flops(shape, work) + logits, setting, machine)
    traffic = passes * _micro_batches(setting, work) * _gathered(shape, setting)
    return _overlapped("score", computed, traffic, setting, machine)


def _update(shape: Shape, setting: Setting, work: Work, machine: Machine) -> Phase:
    """All optimiser steps: compute and the traffic of a sharded model overlap; the rest comes after each backward."""
    if not work.kept:
        return Phase("update", 0.0, 0.0, "nothing kept")
    models = 2 if work.critic else 1
    computed = work.passes * models * _compute(update_flops(shape, setting, work), setting, machine)
    count = models * trained(shape, setting)
    scattered = count * setting.rest * (setting.shard - 1) / setting.shard
    once = 2 * models * _gathered(shape, setting) + scattered  # forward, backward, gradients
    phase = _overlapped("update", computed, work.passes * _micro_batches(setting, work) * once, setting, machine)
    part = count / setting.shard
    replicas = setting.gpus // setting.shard
    reduced = 2 * part * setting.rest * (replicas - 1) / replicas
    across = machine.rate(setting.gpus if replicas > 1 else 1)
    optimiser = part / HOST_ADAM if setting.cpu_offload else 7 * part * setting.rest / machine.bandwidth
    after = work.updates * (reduced / across + optimiser)
    bound = phase.bound if phase.seconds > after else ("optimiser" if optimiser > reduced / across else "links")
    return Phase("update", phase.seconds + after, phase.sent + work.updates * reduced, bound)


def _micro_batches(setting: Setting, work: Work) -> float:
    """Forwards of one pass on each GPU: every mini-batch is cut into micro-batches."""
    tokens = max(setting.micro_batch_tokens, work.longest)
    batches = work.updates // work.passes
    return batches * max(1.0, -(-work.learner_tokens / setting.gpus / batches // tokens))


def _compute(flops: float, setting: Setting, machine: Machine) -> float:
    """Seconds of `flops` shared by all GPUs; in float32 a GPU has half of the rate (TF32)."""
    slower = (1 if setting.dtype == "bfloat16" else 2) * (DEQUANTISE if setting.quantization else 1)
    return flops * slower / (setting.gpus * machine.flops * machine.efficiency.update)


def _overlapped(name: str, computed: float, traffic: float, setting: Setting, machine: Machine) -> Phase:
    """Compute and the `traffic` of a sharded model (bytes sent by each GPU) at the same time; offloaded over the host.

    The larger of the two counts: FSDP2 gathers the next layer while one is computed.
    """
    moved = traffic / machine.rate(setting.shard)
    if setting.cpu_offload:  # each GPU reads its part of what is gathered from the memory of the host
        moved = max(moved, traffic / max(1, setting.shard - 1) / machine.host)
    return Phase(name, max(computed, moved), traffic, "compute" if computed >= moved else "links")


def _gathered(shape: Shape, setting: Setting) -> float:
    """Bytes that each GPU receives (and sends) to gather all layers once: a ring all-gather (arXiv 2304.11277)."""
    return shape.parameters * setting.compute * (setting.shard - 1) / setting.shard


def _sync(shape: Shape, setting: Setting, machine: Machine) -> Phase:
    """New weights reach the engine: gathered where they are sharded, then written."""
    held = engine_weights(shape, setting)
    part = setting.shard
    sent = shape.parameters * setting.compute * (part - 1) / part
    if setting.lora_rank and setting.engine == "torch" and part == 1:
        return Phase("sync", 0.0, 0.0, "none: the engine reads the learner's weights")
    return Phase("sync", sent / machine.rate(part) + 2 * held / machine.bandwidth, sent, "links" if sent else "memory")
