"""What the viewer keeps in memory: the runs as they were last read, the responses of a few steps, tokenizers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Generic, TypeVar

from sieverl.display.view.groups import COLUMNS
from sieverl.run_dir.rollouts import Kind, rollout_path
from sieverl.run_dir.saved import SavedRun, is_run, runs_in

if TYPE_CHECKING:
    import pyarrow
    from tokenizers import Tokenizer

T = TypeVar("T")
RUNS, STEPS, TOKENIZERS = 64, 4, 2  # that are kept
LARGEST_TOKENIZER = 64 << 20  # bytes


class Recent(Generic[T]):
    """The last values that were asked for, each until its stamp changes."""

    def __init__(self, most: int) -> None:
        self.most, self.lock = most, Lock()
        self.values: OrderedDict[Hashable, tuple[object, T]] = OrderedDict()

    def get(self, key: Hashable, stamp: object, make: Callable[[], T]) -> T:
        """The value of `key`, made anew where `stamp` is another than it was."""
        with self.lock:
            if key not in self.values or self.values[key][0] != stamp:
                self.values[key] = (stamp, make())
            self.values.move_to_end(key)
            while len(self.values) > self.most:
                self.values.popitem(last=False)
            return self.values[key][1]


class Store:
    """The runs below a folder; what is asked for again and has not changed on the disk is not read again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._runs: Recent[SavedRun] = Recent(RUNS)
        self._steps: Recent[pyarrow.Table | None] = Recent(STEPS)
        self._tokenizers: Recent[Tokenizer | None] = Recent(TOKENIZERS)

    def names(self) -> list[str]:
        """The names of the runs, the newest first."""
        return [path.resolve().name for path in runs_in(self.folder)]

    def run(self, name: str) -> SavedRun | None:
        """The run of this name; None where there is none."""
        path = self.folder if is_run(self.folder) else self.folder / name
        if name not in self.names():  # so that no other path is ever opened
            return None
        return self._runs.get(name, self.stamp(path), lambda: SavedRun.read(path))

    def stamp(self, path: Path) -> object:
        """What changes when a run goes on."""
        return (*map(_stamp, (path / "metrics.jsonl", path / "recipe.toml")), _stamp(path / "rollouts"))

    def responses(self, run: SavedRun, step: int, kind: Kind) -> pyarrow.Table | None:
        """The responses of a step without their tokens."""
        path = rollout_path(run.path, step, kind)
        return self._steps.get(path, _stamp(path), lambda: run.responses(step, COLUMNS, kind))

    def tokenizer(self, run: SavedRun) -> Tokenizer | None:
        """The tokenizer of a run; None where its file is missing or none."""
        path = run.path / "tokenizer.json"
        return self._tokenizers.get(path, _stamp(path), lambda: _tokenizer(path))


def _tokenizer(path: Path) -> Tokenizer | None:
    from tokenizers import Tokenizer

    try:
        if path.stat().st_size > LARGEST_TOKENIZER:
            return None
        return Tokenizer.from_file(str(path))
    except Exception:  # its Rust code raises nothing narrower
        return None


def _stamp(path: Path) -> object:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size
