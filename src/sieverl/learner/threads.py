"""Tasks side by side on a CPU: while one thread runs Python or a serial operation, the others keep computing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Result = TypeVar("Result")


def side_by_side(tasks: Sequence[Callable[[], Result]]) -> list[Result]:
    """The results of `tasks`, in order, each computed in a thread of its own with an equal part of PyTorch's threads.

    Threads start with gradients enabled, whatever the mode of the caller.

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
        torch.set_num_threads(threads)  # in some builds the number is global to the process
