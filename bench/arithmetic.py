"""Operations and bytes of a workload, counted by hand: what a measured time and a GPU's memory are held against."""

from __future__ import annotations

from collections.abc import Sequence

from bench.workloads import Workload

FULL_BYTES = 16  # a trained parameter: float32 weight, gradient, and Adam's two moments
FROZEN_BYTES = 4  # a weight that LoRA leaves as it is, in float32
BFLOAT16_BYTES = 2  # the copy of a weight that is computed with
GB = 1e9


def layer_shapes(w: Workload) -> list[tuple[int, int]]:
    """(inputs, outputs) of the matrices of one layer."""
    narrow = w.hidden // w.heads * w.kv_heads
    attention = [(w.hidden, w.hidden), (w.hidden, narrow), (w.hidden, narrow), (w.hidden, w.hidden)]
    return [*attention, (w.hidden, w.intermediate), (w.hidden, w.intermediate), (w.intermediate, w.hidden)]


def layer_weights(w: Workload) -> int:
    """Parameters of the matrices of all layers: what every token is multiplied with."""
    return w.layers * sum(into * out for into, out in layer_shapes(w))


def parameters(w: Workload) -> int:
    """All parameters: matrices, the biases of query, key and value, norms, embeddings and output layer."""
    biases = sum(out for _, out in layer_shapes(w)[:3])
    tables = (1 if w.tied else 2) * w.vocabulary * w.hidden
    return layer_weights(w) + w.layers * (biases + 2 * w.hidden) + w.hidden + tables


def adapters(w: Workload, rank: int) -> int:
    """Parameters of LoRA adapters on every matrix of the layers."""
    return w.layers * rank * sum(into + out for into, out in layer_shapes(w))


def update_flops(w: Workload, groups: Sequence[tuple[int, Sequence[int]]], rank: int = 0) -> float:
    """Model FLOPs of a forward and a backward over (prompt length, response lengths) of each prompt.

    Each prompt counts once, a response without its last token (nothing is predicted from it), the output layer where a
    token is predicted: 6 x weights x tokens, and attention over what the causal mask leaves. With adapters of a `rank`
    frozen weights have no gradient: 4 x weights x tokens. Nothing that is computed twice counts twice.

    >>> one = Workload("one", 8, 4, max, 10, 2, 3, layers=1, heads=1, kv_heads=1)
    >>> update_flops(one, [(2, [3])])  # 6 * (34 weights * 4 tokens + 20 of the output layer * 3) + 12 * 2 * 10 pairs
    1416.0
    """
    tokens = sum(prompt + sum(n - 1 for n in responses) for prompt, responses in groups)
    predicted = sum(sum(responses) for _, responses in groups)
    pairs = sum(triangle(p) + sum(triangle(p + n - 1) - triangle(p) for n in responses) for p, responses in groups)
    products = layer_weights(w) * tokens + w.vocabulary * w.hidden * predicted
    attention = 12 * w.layers * w.hidden * pairs
    return float((4 if rank else 6) * products + 6 * adapters(w, rank) * tokens + attention)


def triangle(n: int) -> int:
    """Pairs of a token with itself and those before it, among `n` tokens.

    >>> triangle(4)
    10
    """
    return n * (n + 1) // 2


def kv_cache_bytes(w: Workload, dtype_bytes: int, prompt: int = 48) -> float:
    """Keys and values of all responses at their longest."""
    size = w.hidden // w.heads * w.kv_heads
    return float(w.responses * (prompt + w.max_tokens) * w.layers * 2 * size * dtype_bytes)


def update_bytes(w: Workload, rank: int, dtype: str) -> tuple[float, str]:
    """The least memory of an update, without activations, and how it comes about."""
    whole, trained = parameters(w), adapters(w, rank) if rank else parameters(w)
    frozen = whole if rank else 0
    copies = BFLOAT16_BYTES * whole if dtype == "bfloat16" else 0
    total = FULL_BYTES * trained + FROZEN_BYTES * frozen + copies
    parts = [f"{trained / 1e9:.3g}B trained x {FULL_BYTES} bytes (weight, gradient, two moments of Adam in float32)"]
    parts += [f"{frozen / 1e9:.3g}B frozen x {FROZEN_BYTES}"] if frozen else []
    parts += [f"{whole / 1e9:.3g}B x {BFLOAT16_BYTES} (bfloat16 copies)"] if copies else []
    return float(total), f"{' + '.join(parts)} = {total / GB:.1f} GB before any activation"


def rollout_bytes(w: Workload, dtype: str) -> tuple[float, str]:
    """The least memory of a rollout beside a policy in float32, and how it comes about."""
    whole, copies = parameters(w), BFLOAT16_BYTES if dtype == "bfloat16" else 0
    cache = kv_cache_bytes(w, 2 if dtype == "bfloat16" else 4) / 4  # lengths are geometric: few reach the longest
    total = (FROZEN_BYTES + copies) * whole + cache
    about = f"{whole / 1e9:.3g}B x {FROZEN_BYTES + copies} bytes (float32{' and bfloat16' if copies else ''})"
    return total, f"{about} + {cache / GB:.1f} GB of KV cache = {total / GB:.1f} GB"
