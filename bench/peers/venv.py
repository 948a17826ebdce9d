"""A virtual environment for each peer, under `.bench/`, made once."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Installed in this order, one `pip install` each: torch first, in the version that SieveRL is measured with.
REQUIREMENTS: dict[str, list[list[str]]] = {
    "trl": [["torch=={torch}"], ["trl==1.16.*", "transformers>=5.16.1,<5.20", "accelerate", "datasets", "psutil"]],
}


def ensure_venv(name: str) -> Path:
    """The Python of the peer's environment `.bench/NAME`, made and filled when it is missing or asks for something else.

    A failing installation raises `subprocess.CalledProcessError` and is tried again by the next call.
    """
    place = ROOT / ".bench" / name
    python = place / "bin/python"
    wanted = [[r.format(torch=metadata.version("torch").split("+")[0]) for r in step] for step in REQUIREMENTS[name]]
    done = place / "installed.txt"
    if not done.exists() or done.read_text() != str(wanted):
        subprocess.run([sys.executable, "-m", "venv", place], check=True)
        for step in wanted:
            subprocess.run([python, "-m", "pip", "install", "--quiet", *step], check=True, stdout=sys.stderr)
        done.write_text(str(wanted))
    return python
