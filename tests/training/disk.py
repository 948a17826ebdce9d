"""A disk in memory: what a power cut may leave of the operations that `sieverl.files` reports.

A file or folder is an object that has what the programs see and what surely survives: `sync` makes the second the
first. After a cut each object may be found as it surely was, as it last was, or in any state between; a file that was
never flushed may be cut off, too.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from sieverl import files
from sieverl.run_dir import manifest

EMPTY = hashlib.sha256(b"").hexdigest()


@dataclass(eq=False)
class File:
    """Contents, oldest first; the first one survives. They are kept as names in a store."""

    states: list[str] = field(default_factory=lambda: [EMPTY])


@dataclass(eq=False)
class Folder:
    """Entries, oldest first; the first ones survive."""

    states: list[dict[str, File | Folder | str]] = field(default_factory=lambda: [{}])

    def change(self, **entries: File | Folder | str | None) -> None:
        now = {**self.states[-1], **{k: v for k, v in entries.items() if v is not None}}
        self.states.append({k: v for k, v in now.items() if k not in entries or entries[k] is not None})


Node = File | Folder


class Disk:
    """Follows the operations below `root`, and gives what may be left of them at any point."""

    def __init__(self, root: Path, store: Path) -> None:
        self.root, self.store = root, store
        self.top = Folder()
        self._filled: Path | None = None  # being written since the last operation
        self._remember(b"")

    @contextmanager
    def following(self, at_each: list[str]) -> Iterator[Disk]:
        """Follow while the body runs; the operations are noted in `at_each`."""

        def watch(operation: str, paths: tuple[Path, ...]) -> None:
            if self.inside(paths[0]):
                self.before(operation, *paths)
                at_each.append(operation)

        files.watchers.append(watch)
        try:
            yield self
        finally:
            files.watchers.remove(watch)

    def inside(self, path: Path) -> bool:
        return path == self.root or self.root in path.parents

    def before(self, operation: str, path: Path, other: Path | None = None) -> None:
        """What `operation` will have done once the next one begins."""
        self.settle()
        if operation in ("fill", "append"):
            self._filled = path
            return
        parent, name = self._folder(path.parent), path.name
        if operation == "make":
            parent.change(**{name: Folder()})
        elif operation == "sync":
            del self._node(path).states[:-1]
        elif operation == "link":
            parent.change(**{name: str(other)})
        elif operation == "remove":
            parent.change(**{name: None})
        elif operation == "move":
            assert other is not None
            node = parent.states[-1][name]
            parent.change(**{name: None})
            self._folder(other.parent).change(**{other.name: node})
            if other.parent == path.parent:  # one change of one folder: both names, or neither
                del parent.states[-2]
        else:
            raise AssertionError(f"an operation that the disk does not know: {operation}")

    def settle(self) -> None:
        """Take in what was written since the last operation."""
        path, self._filled = self._filled, None
        if path is None:
            return
        if path.is_dir():
            self._take_folder(path, self._folder(path))
        elif path.exists():
            self._take_file(path)

    def _take_folder(self, path: Path, folder: Folder) -> None:
        for entry in sorted(path.iterdir()):
            if entry.is_dir():
                if entry.name not in folder.states[-1]:
                    folder.change(**{entry.name: Folder()})
                self._take_folder(entry, self._folder(entry))
            else:
                self._take_file(entry)

    def _take_file(self, path: Path) -> None:
        content, folder = self._remember(path.read_bytes()), self._folder(path.parent)
        found = folder.states[-1].get(path.name)
        if not isinstance(found, File):
            found = File()
            folder.change(**{path.name: found})
        if found.states[-1] != content:
            found.states.append(content)

    def _remember(self, content: bytes) -> str:
        name = hashlib.sha256(content).hexdigest()
        self.store.mkdir(parents=True, exist_ok=True)
        if not (self.store / name).exists():
            (self.store / name).write_bytes(content)
        return name

    def _node(self, path: Path) -> Node:
        node: Node = self.top
        for part in path.relative_to(self.root).parts:
            assert isinstance(node, Folder)
            found = node.states[-1][part]
            assert not isinstance(found, str)
            node = found
        return node

    def _folder(self, path: Path) -> Folder:
        if path == self.root.parent:
            return Folder()  # above what is followed
        node = self._node(path)
        assert isinstance(node, Folder)
        return node

    def left(self, target: Path, how: str, seed: int = 0) -> None:
        """Write what a cut now leaves into `target`: everything (`kill`), only what survives (`synced`), all names but
        only the contents that survive (`names`), or anything between (`any`)."""
        self._write(self.top, target, how, random.Random(seed))

    def _write(self, folder: Folder, target: Path, how: str, chance: random.Random) -> None:
        target.mkdir(exist_ok=True)
        entries = _pick(folder.states, "kill" if how == "names" else how, chance)
        for name, node in entries.items():
            if isinstance(node, str):
                os.symlink(node, target / name)
            elif isinstance(node, Folder):
                self._write(node, target / name, how, chance)
            else:
                content = _pick(node.states, how, chance)
                if how == "any" and len(node.states) > 1 and chance.random() < 0.5:
                    before, whole = ((self.store / x).read_bytes() for x in (node.states[0], content))
                    sure = len(before) if whole.startswith(before) else 0  # text that was added to it
                    (target / name).write_bytes(whole[: chance.randrange(sure, len(whole) + 1)])
                else:
                    os.link(self.store / content, target / name)


State = TypeVar("State")


def _pick(states: list[State], how: str, chance: random.Random) -> State:
    return states[-1] if how == "kill" else states[0] if how in ("synced", "names") else chance.choice(states)


def contents(folder: Path) -> Mapping[str, bytes]:
    """The files of a folder by their names."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def state_of(checkpoint: Mapping[str, bytes]) -> dict[str, object]:
    """The files of a checkpoint up to what need not be the same when a run is resumed, and without the hashes of that.

    How long batches that wait took; the order of a sharded state's notes, which safetensors leaves to chance.
    """
    state, hashes = (json.loads(checkpoint[name]) for name in (manifest.STATE, manifest.MANIFEST))
    took = [batch.pop("seconds") for batch in state.get("queue", [])]
    same = {name: _as_noted(content) for name, content in checkpoint.items() if name.startswith("training/")}
    same |= {manifest.STATE: state} if took else {}
    known = {name: digest for name, digest in hashes.items() if name not in same}
    return {**checkpoint, **same, manifest.MANIFEST: known}


def _as_noted(tensors: bytes) -> tuple[object, bytes]:
    """The header of a safetensors file, in which the order is of no account, and the bytes of its tensors."""
    size = 8 + int.from_bytes(tensors[:8], "little")
    header = json.loads(tensors[8:size])
    notes = header.get("__metadata__", {})
    header["__metadata__"] = {k: json.loads(v) if v.startswith("{") else v for k, v in notes.items()}
    return header, tensors[size:]
