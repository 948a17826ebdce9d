"""How a recipe's work is laid out over GPUs: the choices that change memory and time and nothing that is learnt."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sieverl.recipe import Recipe

WIDTH = {"bfloat16": 2, "float32": 4, "float64": 8}  # bytes of a number


@dataclass(frozen=True)
class Setting:
    """The keys of a recipe that a plan may change. `shard` is the number of GPUs that share one copy of the model."""

    gpus: int
    strategy: str = "replicated"
    shard: int = 1
    activation_checkpointing: bool = False
    cpu_offload: bool = False
    lora_rank: int = 0
    quantization: str = ""
    engine: str = "torch"
    tensor_parallel: int = 1
    micro_batch_tokens: int = 16384
    max_num_seqs: int = 512
    dtype: str = "bfloat16"

    @property
    def compute(self) -> int:
        """Bytes of a number in the forward and backward."""
        return WIDTH[self.dtype]

    @property
    def rest(self) -> int:
        """Bytes of a parameter at rest, of its gradient, and of each of its two moments in the optimiser."""
        return 8 if self.dtype == "float64" else 4

    @property
    def engines(self) -> int:
        """Engines that sample at the same time."""
        return max(1, self.gpus // self.tensor_parallel)

    def options(self, before: Setting) -> list[str]:
        """What the command line needs to change `before` into this."""
        known = {"distributed.shard_size": "0"} | dict(before._keys())
        return [f"--{key} {value}" for key, value in self._keys() if known.get(key) != value]

    def _keys(self) -> Iterator[tuple[str, str]]:
        """The keys of the recipe with their values on the command line."""
        yield "distributed.strategy", self.strategy
        if self.strategy == "fsdp":
            yield "distributed.shard_size", str(self.shard if self.shard < self.gpus else 0)
        yield "distributed.activation_checkpointing", str(self.activation_checkpointing).lower()
        yield "distributed.cpu_offload", str(self.cpu_offload).lower()
        yield "model.lora.rank", str(self.lora_rank)
        yield "model.quantization", self.quantization or "none"
        yield "rollout.engine", self.engine
        yield "rollout.tensor_parallel_size", str(self.tensor_parallel)
        yield "train.micro_batch_tokens", str(self.micro_batch_tokens)
        yield "rollout.max_num_seqs", str(self.max_num_seqs)


def setting_of(recipe: Recipe, gpus: int) -> Setting:
    """The setting that the recipe has now, on `gpus` GPUs."""
    distributed, rollout = recipe.distributed, recipe.rollout
    strategy = distributed.strategy if gpus > 1 else "replicated"  # one process has nothing to shard with
    shard = int(getattr(distributed, "shard_size", 0) or 0) or gpus
    return Setting(
        gpus=gpus,
        strategy=strategy,
        shard=min(shard, gpus) if strategy == "fsdp" else 1,
        activation_checkpointing=bool(getattr(distributed, "activation_checkpointing", False)),
        cpu_offload=distributed.cpu_offload and strategy == "fsdp",
        lora_rank=recipe.model.lora.rank,
        quantization=str(getattr(recipe.model, "quantization", None) or ""),
        engine=rollout.engine,
        tensor_parallel=int(getattr(rollout, "tensor_parallel_size", 1)),
        micro_batch_tokens=recipe.train.micro_batch_tokens,
        max_num_seqs=rollout.max_num_seqs,
        dtype=recipe.dtype,
    )
