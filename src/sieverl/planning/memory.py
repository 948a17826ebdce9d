"""Memory of one GPU, item by item, as this code allocates it.

What is always there, and what is there in one of three moments: while responses are generated, in the forward and
backward of a micro-batch, and when gradients are summed over the ranks. The peak is the largest moment.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from sieverl.planning.setting import Setting
from sieverl.planning.shape import Shape
from sieverl.planning.work import Work

Moment = Literal["always", "generate", "update", "reduce"]
CHUNK_BYTES = 32 << 20  # float32 logits that the log-prob head holds at a time (`model/logprobs.py`)
NF4_BYTES = 0.5 + 0.127 / 8  # a weight in NF4 with double quantisation (arXiv 2305.14314, section 3)


@dataclass(frozen=True)
class Item:
    """Bytes of one thing in the memory of a GPU, or of the host."""

    name: str
    bytes: float
    when: Moment = "always"
    host: bool = False


def peak(items: list[Item]) -> float:
    """The largest sum over what is in a GPU's memory at the same time, in bytes."""
    sums = dict.fromkeys(("always", "generate", "update", "reduce"), 0.0)
    for item in items:
        if not item.host:
            sums[item.when] += item.bytes
    return sums["always"] + max(sums["generate"], sums["update"], sums["reduce"])


def trained(shape: Shape, setting: Setting) -> int:
    """Parameters that are trained."""
    return shape.adapters(setting.lora_rank) if setting.lora_rank else shape.parameters


def weights(shape: Shape, setting: Setting) -> float:
    """Bytes of all parameters at rest, adapters included."""
    adapters = shape.adapters(setting.lora_rank) if setting.lora_rank else 0
    if setting.quantization:
        plain = shape.parameters - shape.matrices
        return shape.matrices * NF4_BYTES + (plain + adapters) * setting.rest
    return float((shape.parameters + adapters) * setting.rest)


def memory(shape: Shape, setting: Setting, work: Work, context: float = 0.0) -> list[Item]:
    """Everything of note in the memory of one GPU (and of the host for it); `context` is CUDA's own.

    Training a 7B with AdamW in float32: 4 + 4 + 8 = 16 bytes a parameter (ZeRO, arXiv 1910.02054, section 3.1, has
    16 for mixed precision, which is 2 + 2 + 12).
    """
    items = [
        *_states(shape, setting, work),
        *_update(shape, setting, work),
        *_generation(shape, setting, work),
        Item("CUDA context", context),
    ]
    return [item for item in items if item.bytes]


def _states(shape: Shape, setting: Setting, work: Work) -> Iterator[Item]:
    """What is kept between steps: parameters, gradients, optimiser state, and those of further models."""
    count, part, host = trained(shape, setting), setting.shard, setting.cpu_offload
    yield Item("parameters", weights(shape, setting) / part, host=host)
    yield Item("gradients", count * setting.rest / part, host=host)
    yield Item("optimiser state (Adam)", 2 * count * setting.rest / part, host=host)
    if work.reference and not setting.lora_rank:
        yield Item("reference model", shape.parameters * setting.rest / part, host=host)
    if work.critic:
        yield Item("critic (with its optimiser)", 4 * shape.parameters * setting.rest / part, host=host)


def _update(shape: Shape, setting: Setting, work: Work) -> Iterator[Item]:
    """What a forward and backward of one micro-batch needs, and the sum of gradients."""
    compute = setting.compute
    tokens = max(setting.micro_batch_tokens, work.longest)
    head = shape.embedding * (1 if shape.tied else 2)
    if setting.shard > 1:  # embedding and head are gathered throughout, of the layers two at a time
        yield Item("gathered weights", (head + 2 * shape.layer_matrices) * compute, "update")
        if not setting.lora_rank:  # of one layer before they are scattered, in the dtype of the forward and in float32
            yield Item("gathered gradients", shape.layer_matrices * (compute + setting.rest), "update")
    elif setting.dtype == "bfloat16":
        plain = shape.parameters - (shape.matrices if setting.quantization else 0)
        yield Item("bfloat16 copy of the weights", plain * compute, "update")
    if setting.quantization:  # one layer is dequantised for its product
        yield Item("dequantised weights", shape.hidden * shape.intermediate * compute, "update")
    yield Item("activations", activations(shape, tokens, setting), "update")
    yield Item("log-prob head", _head(shape, tokens, setting), "update")
    if setting.shard == 1 and setting.gpus > 1:  # `learner/gradients.py` sums them in one buffer
        yield Item("buffer of the all-reduce", trained(shape, setting) * setting.rest, "reduce")


def layer_activations(shape: Shape) -> int:
    """Numbers that the backward of one layer keeps of a token (counted in `tests/planning/test_memory.py`).

    Input and output of the two norms, queries, keys, values, the mixture of values, and four times the width of the
    MLP (gate, its activation, up, their product); as arXiv 2205.05198, section 4, with a gated MLP and an attention
    that keeps no [tokens, tokens] matrix.
    """
    queries, keys = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    return 4 * shape.hidden + 2 * queries + 2 * keys + 4 * shape.intermediate


def activations(shape: Shape, tokens: int, setting: Setting) -> float:
    """Bytes kept for the backward of a micro-batch; with checkpointing the inputs of all layers and one whole layer."""
    whole = layer_activations(shape)
    if setting.lora_rank:  # the inputs of the adapters' second halves
        whole += 7 * setting.lora_rank
    numbers = shape.layers * shape.hidden + whole if setting.activation_checkpointing else shape.layers * whole
    return float(tokens * numbers * setting.compute)


def _head(shape: Shape, tokens: int, setting: Setting) -> float:
    """Bytes of the chunked log-probs: logits and their gradient, [chunk, vocabulary], and the gradient of the head.

    The chunk is CHUNK_BYTES of float32, so this does not grow with the number of tokens.
    """
    chunk = max(CHUNK_BYTES, 16 * 4 * shape.vocabulary)
    own = chunk * (2 + setting.compute / 4)
    hidden = 2 * tokens * shape.hidden * setting.compute
    return own + hidden + (0 if setting.lora_rank else shape.embedding * setting.rest)


def _generation(shape: Shape, setting: Setting, work: Work) -> Iterator[Item]:
    """What sampling needs: weights for the engine, and keys and values."""
    yield Item("engine weights", engine_weights(shape, setting), "generate")
    cache = cached_tokens(setting, work) * shape.cache(setting.compute) / setting.tensor_parallel
    yield Item("KV cache", cache, "generate")


def engine_weights(shape: Shape, setting: Setting) -> float:
    """Bytes of the weights that an engine holds beside the learner's.

    The built-in engine decodes full models of the Llama kind from fused copies of the matrices; a sharded model is
    gathered for it as a whole. Another engine has a copy of its own, divided by the tensor parallelism.
    """
    compute = setting.compute
    if setting.engine not in ("torch", "transformers"):
        return shape.parameters * compute / setting.tensor_parallel
    plain = shape.parameters - (shape.matrices if setting.quantization else 0)
    whole = plain * compute if setting.shard > 1 or setting.dtype == "bfloat16" else 0.0
    if setting.quantization:
        whole += shape.hidden * shape.intermediate * compute
    fused = shape.matrices * compute if setting.engine == "torch" and not setting.lora_rank else 0
    return float(whole + fused)


def cached_tokens(setting: Setting, work: Work) -> float:
    """Tokens in the KV cache of an engine at its fullest.

    The built-in engine holds a rectangle: live responses times the longest of them. As responses end at different
    lengths, the largest one is found along the lengths. Another engine takes pages, so at most the tokens there are.
    """
    live = min(setting.max_num_seqs, -(-work.responses // setting.engines))
    lengths = sorted(work.lengths.sample(live))
    if setting.engine == "torch":
        return float(max((live - i) * (work.prompt_tokens + n) for i, n in enumerate(lengths)))
    return live * work.prompt_tokens + sum(lengths) * 0.5 + max(lengths)
