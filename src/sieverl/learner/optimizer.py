"""AdamW and its learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from sieverl.recipe import Train


def make_optimizer(parameters: list[torch.nn.Parameter], settings: Train, lr: float | None = None) -> torch.optim.AdamW:
    """AdamW, its state in the dtype of the parameters; weight decay on matrices only. `lr` replaces the setting."""
    matrices = [p for p in parameters if p.dim() > 1]
    vectors = [p for p in parameters if p.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(
        [g for g in groups if g["params"]], lr=lr or settings.lr, betas=settings.betas, eps=settings.eps, fused=True
    )


def learning_rate(update: int, total: int, settings: Train) -> float:
    """The learning rate of update number `update` of `total`.

    Linear warm-up, then constant, or linear or cosine decay to `min_lr_ratio` of the maximum.

    >>> [learning_rate(u, 4, Train(lr=1.0, warmup_updates=2, schedule="linear")) for u in range(4)]
    [0.5, 1.0, 1.0, 0.5]
    """
    warm = settings.warmup_updates
    if update < warm:
        return settings.lr * (update + 1) / warm
    done = min(1.0, (update - warm) / max(1, total - warm))
    shapes: dict[str, Callable[[float], float]] = {
        "constant": lambda x: 1.0,
        "linear": lambda x: 1.0 - x,
        "cosine": lambda x: 0.5 * (1 + math.cos(math.pi * x)),
    }
    low = settings.min_lr_ratio if settings.schedule != "constant" else 0.0
    return settings.lr * (low + (1 - low) * shapes[settings.schedule](done))
