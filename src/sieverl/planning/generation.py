"""How long sampling takes: decode steps one after the other, each bound by memory, by compute or by its launch."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

from sieverl.planning.machine import Machine
from sieverl.planning.setting import Setting
from sieverl.planning.shape import Shape
from sieverl.planning.work import Work


@dataclass(frozen=True)
class Generation:
    """Seconds of one engine for its share of the responses, split by what binds, and the decode steps it takes."""

    prefill: float
    memory: float
    compute: float
    latency: float
    link: float
    steps: int

    @property
    def seconds(self) -> float:
        """In all."""
        return self.prefill + self.memory + self.compute + self.latency + self.link

    @property
    def bound(self) -> str:
        """What takes most of it."""
        parts = {
            "memory bandwidth": self.memory,
            "compute": self.compute + self.prefill,
            "launches": self.latency,
            "links": self.link,
        }
        return max(parts, key=lambda name: parts[name])


def generate(shape: Shape, setting: Setting, work: Work, machine: Machine) -> Generation:
    """Sample this engine's share of the responses, at most `max_num_seqs` at a time.

    A decode step reads all weights and the keys and values of every live response, and computes 2 flops a weight and
    response, as in "Efficiently Scaling Transformer Inference" (arXiv 2211.05102, section 2). Steps between two ends
    of responses are summed in one go. The built-in engine finishes a batch before it begins the next one; another
    engine fills a place that becomes free.
    """
    share = -(-work.responses // setting.engines)
    lengths = work.lengths.sample(share)
    size = min(setting.max_num_seqs, share)
    batches = [lengths[i : i + size] for i in range(0, share, size)] if setting.engine == "torch" else [lengths]
    clock = _Clock(shape, setting, work, machine)
    for batch in batches:
        clock.run(batch, size)
    return clock.result(share)


class _Clock:
    """Adds up decode steps."""

    def __init__(self, shape: Shape, setting: Setting, work: Work, machine: Machine) -> None:
        self.machine, self.work, self.shape = machine, work, shape
        parallel, width = setting.tensor_parallel, setting.compute
        self.parallel, self.prompt = parallel, work.prompt_tokens
        self.weight_bytes = (shape.matrices + shape.embedding) * width / parallel
        if setting.quantization:  # read packed, written and read again dequantised
            self.weight_bytes *= 2.25
        self.token_bytes = shape.cache(width) / parallel
        slower = 1 if setting.dtype == "bfloat16" else 2  # as in `step.py`
        self.flops = slower * 2 * (shape.matrices + shape.embedding) / parallel
        self.context_flops = slower * 4 * shape.layers * shape.heads * shape.head_size / parallel
        self.link_bytes = 4 * shape.layers * shape.hidden * width * (parallel > 1)
        own = setting.engine in ("torch", "transformers")  # no CUDA graphs: Python launches every kernel
        self.launch = machine.latency if own else machine.latency / 4
        self.memory = self.compute = self.latency = self.link = 0.0
        self.steps = 0

    def run(self, lengths: list[int], places: int) -> None:
        """Decode `lengths`, at most `places` at a time, each in the order given."""
        waiting = list(reversed(lengths))
        live: list[int] = []  # the steps at which live responses end
        begun: dict[int, int] = {}
        now, context = 0, 0.0
        while waiting or live:
            while waiting and len(live) < places:
                length = waiting.pop()
                heapq.heappush(live, now + length)
                begun[now + length] = begun.get(now + length, 0) + length
                context += self.prompt
            end = live[0]
            self.add(len(live), context, end - now)
            context += len(live) * (end - now)
            now = end
            while live and live[0] == end:
                heapq.heappop(live)
                context -= self.prompt
            context -= begun.pop(end)

    def add(self, live: int, context: float, steps: int) -> None:
        """`steps` decode steps of `live` responses with `context` tokens before them."""
        machine, reached = self.machine, self.machine.efficiency
        middle = context + live * steps / 2
        read = (self.weight_bytes + middle * self.token_bytes) / (machine.bandwidth * reached.decode)
        computed = (live * self.flops + middle * self.context_flops) / (machine.flops * reached.prefill)
        self.steps += steps
        self.latency += steps * self.launch * self.shape.layers
        self.link += steps * live * self.link_bytes / (machine.link * reached.link)
        if read > computed:
            self.memory += steps * read
        else:
            self.compute += steps * computed

    def result(self, responses: int) -> Generation:
        """With the prefill of each prompt once for its samples."""
        prompts = -(-responses // self.work.samples)
        flops = prompts * (self.prompt * self.flops + self.shape.attention_flops(self.prompt) / self.parallel)
        prefill = flops / (self.machine.flops * self.machine.efficiency.prefill)
        return Generation(prefill, self.memory, self.compute, self.latency, self.link, self.steps)
