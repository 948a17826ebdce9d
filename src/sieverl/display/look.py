"""What the live display reads of a run directory, which another machine may have."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sieverl.display.frame import Sample
from sieverl.errors import DataError
from sieverl.recipe import Recipe
from sieverl.run_dir import manifest
from sieverl.run_dir.saved import SavedRun
from sieverl.types import JsonObject, Metrics

SEEN = ("prompt", "response", "status", "kept", "reason")
LONGEST = 1000  # characters at either end of a prompt or response that are looked at


@dataclass(frozen=True)
class Checkpoints:
    """The step of the newest checkpoint, when it was made (seconds since 1970), and whether one is being written."""

    step: int | None = None
    made: float = 0.0
    saving: bool = False

    def age(self, now: float) -> tuple[int, float] | None:
        """The step of the newest one and its age in seconds.

        >>> Checkpoints(20, 100.0).age(130.0), Checkpoints().age(130.0)
        ((20, 30.0), None)
        """
        return None if self.step is None else (self.step, max(0.0, now - self.made))


def read_run(run_dir: Path) -> SavedRun:
    """The run as it is in its directory; an empty one where that is not to be seen from here."""
    try:
        return SavedRun.read(run_dir)
    except (DataError, OSError):
        return SavedRun(run_dir, [], {}, [])


def find_checkpoints(run_dir: Path) -> Checkpoints:
    """The checkpoints of a run."""
    folder = run_dir / "checkpoints"
    with suppress(OSError):
        saving = any(folder.glob(f".{manifest.PREFIX}*.tmp"))
        steps = manifest.steps(folder)
        if not steps:
            return Checkpoints(saving=saving)
        made = (folder / f"{manifest.PREFIX}{steps[-1]}" / manifest.MANIFEST).stat().st_mtime
        return Checkpoints(steps[-1], made, saving)
    return Checkpoints()


def choose_sample(run_dir: Path, rows: Sequence[Metrics]) -> Sample | None:
    """A response of the last step, another one each step; None where none can be read."""
    row = next((row for row in reversed(rows) if row.get("select/prompts")), None)
    if row is None:
        return None
    step = int(row["step"])
    group = step * 7919 % int(row["select/prompts"])
    run = SavedRun(run_dir, [], {}, [])
    table = run.responses(step, [*SEEN, "group"], where=[("group", "=", group)])
    if table is None or not table.num_rows:
        return None
    found: JsonObject = table.slice(step % table.num_rows, 1).to_pylist()[0]
    kept, reason = found["kept"], found["reason"]
    fate = "" if kept is None else ", kept" if kept else f", rejected ({reason})" if reason else ", rejected"
    verdict = f"{found['status']}{fate}".replace("_", " ")
    return Sample(step, ends(str(found["prompt"])), ends(str(found["response"])), verdict)


def ends(text: str) -> str:
    """A text, or both ends of a long one."""
    return text if len(text) <= 2 * LONGEST else f"{text[:LONGEST]}\n...\n{text[-LONGEST:]}"


def title(recipe: Recipe, starts: Sequence[JsonObject]) -> list[str]:
    """Algorithm, model, device and run directory; `starts` are those of the run's environment.json.

    >>> title(Recipe(run_dir="runs/a"), [{"model": "qwen2", "parameters": 772864, "device": "cpu", "ranks": 2}])
    ['reinforce_rej', 'shipped model (qwen2, 0.8M parameters)', '2 x cpu', 'runs/a']
    """
    start = starts[-1] if starts else {}
    about = [str(start["model"])] if "model" in start else []
    if isinstance(count := start.get("parameters"), int):
        about.append(f"{count / 1e6:,.1f}M parameters" if count < 1e9 else f"{count / 1e9:,.1f}B parameters")
    model = recipe.model.path or "shipped model"
    ranks = start.get("ranks", 1)
    device = f"{f'{ranks} x ' * (ranks != 1)}{start.get('device', recipe.model.device)}"
    return [recipe.algorithm, f"{model} ({', '.join(about)})" if about else model, device, recipe.run_dir]
