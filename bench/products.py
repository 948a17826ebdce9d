"""The bare matrix products of an update and of a rollout: the work that every implementation must do.

Plain `torch.mm` and `torch.bmm` on tokens without any padding. Attention counts what a causal mask leaves, half of all
pairs. Legend: N tokens, n responses, L columns, H query heads, K key/value heads, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bench.peers.serve import now
from bench.workloads import Workload

PEAK = {"cpu": (1024, 2048), "cuda": (4096, 8192, 16384)}  # rows of the square matrices of `peak_flops`


class Products:
    """Weights of a workload's shapes in `dtype`, each layer its own, so that caches are as cold as a model's."""

    def __init__(self, workload: Workload, dtype: torch.dtype, device: str = "cpu") -> None:
        w = workload
        self.device = device
        self.workload, self.dtype, self.size = w, dtype, w.hidden // w.heads
        narrow = w.kv_heads * self.size
        shapes = [(w.hidden, w.hidden), (w.hidden, narrow), (w.hidden, narrow), (w.hidden, w.hidden)]
        shapes += [(w.hidden, w.intermediate), (w.hidden, w.intermediate), (w.intermediate, w.hidden)]
        self.layers = [[self._random(out, into) for into, out in shapes] for _ in range(w.layers)]
        self.head = self._random(w.vocabulary, w.hidden)

    def _random(self, *shape: int) -> Tensor:
        return torch.randn(shape, device=self.device).mul_(0.02).to(self.dtype)

    @torch.no_grad()
    def update(self, batches: Sequence[tuple[int, int, Sequence[int]]]) -> float:
        """Seconds of the products of a forward and a backward, one micro-batch after the other.

        A micro-batch is its tokens (each prompt once), those of them that predict a response token, and the length of
        each row that attends to itself.
        """
        seconds = 0.0
        for tokens, answers, lengths in batches:
            wide = {n: self._random(tokens, n) for layer in self.layers[:1] for w in layer for n in w.shape}
            few, out = self._random(answers, self.workload.hidden), self._random(answers, len(self.head))
            length = round((sum(n * n for n in lengths) / len(lengths)) ** 0.5)
            pairs = self._pairs(len(lengths) * self.workload.heads, length)
            began = now(self.device)
            for layer in self.layers:
                for w in layer:
                    torch.mm(wide[w.shape[1]], w.T)
                _attend(*pairs[:3])
            torch.mm(few, self.head.T)
            torch.mm(out, self.head)
            torch.mm(out.T, few)
            for layer in self.layers:
                _attend_backward(*pairs)
                for w in layer:
                    torch.mm(wide[w.shape[0]], w)
                    torch.mm(wide[w.shape[0]].T, wide[w.shape[1]])
            seconds += now(self.device) - began
        return seconds

    def _pairs(self, rows: int, length: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        half = (length + 1) // 2
        query, key, value = (self._random(rows, n, self.size) for n in (length, half, half))
        return query, key, value, self._random(rows, length, half)

    @torch.no_grad()
    def rollout(self, prompts: Sequence[int], responses: Sequence[int]) -> float:
        """Seconds of the products of the prefill of each prompt, once, and of a decoding step for each later token."""
        w = self.workload
        tokens = sum(prompts)
        wide = {n: self._random(tokens, n) for w in self.layers[0] for n in w.shape}
        pairs = self._pairs(len(prompts) * w.heads, max(prompts))
        before = sum(prompts) // len(prompts)
        longest = max(responses)
        keys, memory = (self._random(len(responses) * w.kv_heads, before + longest, self.size) for _ in range(2))
        group = w.heads // w.kv_heads
        query = self._random(len(keys), group, self.size)
        share = self._random(len(keys), group, before + longest)
        began = now(self.device)
        for layer in self.layers:
            for weight in layer:
                torch.mm(wide[weight.shape[1]], weight.T)
            _attend(*pairs[:3])
        row = {n: self._random(len(responses), n) for w in self.layers[0] for n in w.shape}
        torch.mm(row[w.hidden][: len(prompts)], self.head.T)
        for position in range(1, longest):
            live = sum(n > position for n in responses)
            rows, columns = live * w.kv_heads, before + position
            for layer in self.layers:
                for weight in layer:
                    torch.mm(row[weight.shape[1]][:live], weight.T)
                torch.bmm(query[:rows], keys[:rows, :columns].transpose(1, 2))
                torch.bmm(share[:rows, :, :columns], memory[:rows, :columns])
            torch.mm(row[w.hidden][:live], self.head.T)
        return now(self.device) - began


@torch.no_grad()
def peak_flops(dtype: torch.dtype, device: str, repeats: int = 5) -> float:
    """The most operations per second that a product of two square matrices reaches, over sizes and repeats."""
    best = 0.0
    for n in PEAK[device]:
        a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
        times = 1 if device == "cpu" else 10  # at a time, so that starting a kernel counts little
        for _ in range(repeats + 1):
            began = now(device)
            for _ in range(times):
                torch.mm(a, b)
            best = max(best, times * 2 * n**3 / (now(device) - began))
    return best


def _attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return torch.bmm(torch.bmm(query, key.transpose(1, 2)), value)


def _attend_backward(query: Tensor, key: Tensor, value: Tensor, share: Tensor) -> None:
    torch.bmm(share.transpose(1, 2), query)  # of value, whose gradient has the shape of key's
    torch.bmm(query, value.transpose(1, 2))  # of share
    torch.bmm(share, key)  # of query
    torch.bmm(share.transpose(1, 2), query)  # of key
