"""GPUs by their data sheets, and how much of that is reached."""

from __future__ import annotations

from dataclasses import dataclass

GB = 1e9


@dataclass(frozen=True)
class Efficiency:
    """What is reached of the data sheet: assumptions, from published runs, that `docs/scaling.md` checks.

    `update`: model flops utilisation of the learner (verl's own log has 0.34 for a 7B on H20 and H800 GPUs, Megatron-LM
    and PaLM 0.45 to 0.57). `decode`: share of the memory bandwidth in decoding (open-instruct measures 0.52 with vLLM).
    `prefill`: share of peak flops with large matrices in inference. `reserve`: share of the memory that fragmentation
    and workspaces take.
    """

    update: float = 0.4
    prefill: float = 0.5
    decode: float = 0.5
    link: float = 0.7
    reserve: float = 0.1


@dataclass(frozen=True)
class Machine:
    """One GPU and what it is connected with. `memory` is in bytes, rates are per GPU: bytes/s and flop/s (bfloat16).

    `link` is between the GPUs of a node, `network` between nodes, `host` to the CPU's memory. `latency` is the time of
    a decode step in which nothing is computed (launches, sampling, scheduling), in seconds a layer.
    """

    name: str
    memory: float
    bandwidth: float
    flops: float
    link: float
    network: float = 50 * GB
    host: float = 25 * GB
    node: int = 8
    latency: float = 1e-4
    context: float = 1 * GB
    efficiency: Efficiency = Efficiency()

    def rate(self, ranks: int) -> float:
        """Bytes/s of a collective over `ranks` GPUs: the slowest part of the ring."""
        return (self.link if ranks <= self.node else self.network) * self.efficiency.link

    @property
    def usable(self) -> float:
        """Bytes that may be planned with."""
        return self.memory * (1 - self.efficiency.reserve)


def _gpu(name: str, memory: float, bandwidth: float, tflops: float, link: float) -> Machine:
    return Machine(name, memory * GB, bandwidth * GB, tflops * 1e12, link * GB)


# name, GB, GB/s, dense bfloat16 TFLOP/s, GB/s to the GPUs of the node in one direction: NVIDIA's data sheets
GPUS = {
    gpu.name: gpu
    for gpu in (
        _gpu("H100", 80, 3350, 989, 450),
        _gpu("H200", 141, 4800, 989, 450),
        _gpu("H20", 96, 4000, 148, 450),
        _gpu("B200", 180, 8000, 2250, 900),
        _gpu("A100", 80, 2039, 312, 300),
        _gpu("L40S", 48, 864, 362, 25),
        _gpu("RTX4090", 24, 1008, 165, 25),
        _gpu("A10", 24, 600, 125, 25),
    )
}
