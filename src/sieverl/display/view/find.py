"""What is looked for across the steps of a run, or in two runs. Results come as they are found."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sieverl.display.view.groups import COLUMNS, Filter, Group, groups, numbers
from sieverl.run_dir.rollouts import Kind
from sieverl.run_dir.saved import SavedRun

MOST = 200  # groups that a search shows
SHARED = 500  # prompts of a comparison


def around(numbers: Sequence[int], number: int) -> tuple[int | None, int | None]:
    """The number before, and the number after; None where there is none.

    >>> around([1, 3, 5], 3), around([1, 3, 5], 4), around([], 1)
    ((1, 5), (3, 5), (None, None))
    """
    place = bisect_left(numbers, number)
    after = place + 1 if place < len(numbers) and numbers[place] == number else place
    return numbers[place - 1] if place else None, numbers[after] if after < len(numbers) else None


def nearest(numbers: Sequence[int], number: int) -> list[int]:
    """The numbers beside one that is not there."""
    return [found for found in around(numbers, number) if found is not None]


def of_prompt(run: SavedRun, prompt: int) -> Iterator[tuple[Kind, int, Group]]:
    """The groups of one prompt: those of training, then those of evaluation, which number their prompts themselves."""
    kinds: tuple[Kind, Kind] = ("step", "eval")
    for kind in kinds:
        for step in run.logged[kind]:
            table = run.responses(step, COLUMNS, kind, [("prompt_id", "=", prompt)])
            if table is not None and table.num_rows:
                yield from ((kind, step, group) for group in groups(table, numbers(table, Filter())))


def containing(run: SavedRun, text: str) -> Iterator[tuple[Kind, int, Group]]:
    """The groups with a response that contains a text, the newest step first; at most `MOST`."""
    left = MOST
    for step in reversed(run.logged["step"]):
        table = run.responses(step, COLUMNS)
        if table is None:
            continue
        for group in groups(table, numbers(table, Filter(text=text))[:left]):
            left -= 1
            yield "step", step, group
        if not left:
            return


@dataclass(frozen=True)
class Pair:
    """One prompt in two runs: the groups that answer it."""

    prompt_id: int
    prompt: str
    first: Group
    second: Group

    @property
    def gain(self) -> float:
        """How much more of the second run's responses are right."""
        return self.second.solved - self.first.solved


def shared(runs: Sequence[SavedRun], steps: Sequence[int | None]) -> tuple[list[Pair], list[int | None]]:
    """The prompts that two runs were both evaluated on, those that differ most first, and the evaluations compared."""
    chosen = [
        max(run.logged["eval"], default=None) if step is None else step for run, step in zip(runs, steps, strict=True)
    ]
    found: list[dict[tuple[int, str], Group]] = []
    for run, step in zip(runs, chosen, strict=True):
        table = None if step is None else run.responses(step, COLUMNS, "eval")
        all_groups = [] if table is None else groups(table, numbers(table, Filter()))
        found.append({(group.prompt_id, group.prompt): group for group in all_groups})
    both = [Pair(*key, found[0][key], found[1][key]) for key in found[0] if key in found[1]]
    return sorted(both, key=lambda pair: (-abs(pair.gain), pair.prompt_id))[:SHARED], list(chosen)
