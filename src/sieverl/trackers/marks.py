"""How far each tracker is, kept in the run directory, so that a resumed run goes on in the same tracker run."""

from __future__ import annotations

import json
import uuid
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from sieverl.files import write_json


@dataclass(frozen=True)
class Mark:
    """The project and the id of a run in a tracker, and the last step that it was given; -1 before the first."""

    project: str
    id: str
    step: int = -1

    @staticmethod
    def read(path: Path, project: str) -> Mark:
        """The mark in a file; a new one where there is none that can be read, or where it is of another project."""
        try:
            found = Mark(**json.loads(path.read_text(encoding="utf-8")))
            if found.project == project and isinstance(found.id, str) and type(found.step) is int:
                return found
        except (OSError, ValueError, TypeError, RecursionError):
            pass
        return Mark(project, uuid.uuid4().hex[:12])

    def at(self, step: int, path: Path) -> Mark:
        """The mark moved to a step, on the disk too."""
        moved = replace(self, step=step)
        write_json(path, asdict(moved))
        return moved


def mark_path(run_dir: Path, name: str) -> Path:
    """Where the mark of a tracker is.

    >>> mark_path(Path("runs/a"), "my/file.py:log").as_posix()
    'runs/a/trackers/my_file.py_log.json'
    """
    return run_dir / "trackers" / ("".join(c if c.isalnum() or c in "._-" else "_" for c in name) + ".json")
