"""Run under torchrun by test_whole_loop: `stopped.py FOLDER STEP KEY=VALUE ...`, `sieverl train` of a short run.

After STEP rank 0 sends SIGTERM to torchrun, which passes it on to the ranks (0: never). Each rank writes its exit code
to FOLDER/rank-N.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from runs import recipe

from sieverl.commands.train import train_recipe
from sieverl.display import console
from sieverl.types import Metrics, Note

if __name__ == "__main__":
    folder, step, *options = sys.argv[1:]
    rank = int(os.environ.get("RANK", "0"))

    class Stopping(console.Progress):
        """Goes on only once this rank has its signal, so that the run stops after this very step."""

        def __call__(self, row: Metrics, notes: Sequence[Note] = ()) -> None:
            super().__call__(row, notes)
            if row["step"] == int(step) > 0:
                seen: list[int] = []
                noted = signal.getsignal(signal.SIGTERM)
                assert callable(noted)

                def note(number: int, frame: FrameType | None) -> None:
                    seen.append(number)
                    noted(number, frame)

                signal.signal(signal.SIGTERM, note)
                os.kill(os.getppid(), signal.SIGTERM)
                while not seen:
                    time.sleep(0.01)

    console.Progress = Stopping  # type: ignore[misc]
    run = recipe(Path(folder) / "run", **dict(option.split("=", 1) for option in options))
    code = train_recipe(run, "auto")
    (Path(folder) / f"rank-{rank}").write_text(str(int(code)))
    sys.exit(code)
