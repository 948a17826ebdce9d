"""Tasks side by side on a CPU: what a thread must do alone, others do meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Result = TypeVar("Result")


def side_by_side(tasks: Sequence[Callable[[], Result]]) -> list[Result]:
    """The results of `tasks`, in order, each computed in a thread of its own with an equal part of PyTorch's threads.

    A task sets its own gradient mode: it begins with gradients on.

    >>> side_by_side([lambda: 1, lambda: 2])
    [1, 2]
    """
    if len(tasks) == 1:
        return [tasks[0]()]
    threads = torch.get_num_threads()
    part = max(1, threads // len(tasks))
    try:
        with ThreadPoolExecutor(len(tasks), "sieverl-part", lambda: torch.set_num_threads(part)) as pool:
            return [done.result() for done in [pool.submit(task) for task in tasks]]
    finally:
        torch.set_num_threads(threads)  # the number of some libraries is one for the whole process
